"""`fedeff codes train` and `bench` from the outside: files that fit each other, a line for what does not."""

import pytest

from fedeff.cli.main import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A code for a small model that was trained for it."""
    path = tmp_path_factory.mktemp("codes") / "small.safetensors"
    options = ("--model", "mlp", "--data", "digits", "--budget", "0.5", "--epochs", "1", "--out", str(path))
    assert main(["codes", "train", *options]) == 0
    return path


def run(capfd, *arguments):
    capfd.readouterr()
    status = main(["codes", *map(str, arguments)])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def test_a_trained_code_is_measured_for_the_model_that_was_trained_with_it(trained, tmp_path, capfd):
    weights, page = trained.with_name("small.weights.safetensors"), tmp_path / "page.html"
    status, out, _ = run(
        *(capfd, "bench", trained, "--weights", weights, "--model", "mlp", "--data", "digits"),
        *("--images", 60, "--delays", "bimodal:8,0.1", "--out", page),
    )
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if "%" in line] == [
        "uncoded",
        "two",
        "small",
        "Berrut",
    ]
    assert out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert ">Accuracy of answers<" in text
    assert ">Items that wait longer<" in text


def test_a_code_for_another_model_is_refused(trained, tmp_path, capfd):
    other = tmp_path / "other.safetensors"
    assert run(
        *(capfd, "train", "--model", "mlp", "--data", "digits", "--budget", 0.2, "--epochs", 1, "--seed", 5),
        *("--recipe", "parm-sum", "--out", other),
    )[0] == 0  # fmt: skip
    weights = other.with_name("other.weights.safetensors")
    asked = ("--weights", weights, "--model", "mlp", "--data", "digits", "--out", tmp_path / "page.html")
    status, _, err = run(capfd, "bench", trained, *asked)
    assert status == 2
    assert "was fitted to another function" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--recipe", "paked"), "did you mean 'packed'"),
        (("train", "-k", 0), "k is 0"),
        (("train", "--out", "code.bin"), "not a .safetensors file"),
        (("train", "--data", "shakespeare", "--model", "lstm"), "codes are for models of images"),
        (("bench", "nowhere.safetensors", "--weights", "w", "--out", "page.txt"), "not an .html file"),
    ],
)
def test_wrong_requests_get_one_line(capfd, arguments, message):
    status, _, err = run(capfd, *arguments)
    assert status == 2
    assert message in " ".join(err.split())
