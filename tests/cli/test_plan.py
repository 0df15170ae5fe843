"""`fedeff plan` from the outside: a table, the same as JSON, and one line for a wrong request."""

import json

import pytest

from fedeff.cli.main import main


@pytest.fixture
def planned(capfd, monkeypatch):
    """`planned("--bytes", ...)`: exit status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        capfd.readouterr()
        status = main(["plan", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_star_by_hand(planned):
    """4 MB each way at 1 MB/s: 8 s, and 1 s of training; half() sends 2 MB up and codes 1 + 10 s."""
    status, out, _ = planned(
        "--bytes", 4e6, "-w", 10, "--bandwidth", "8Mbit", "--codec", "half", "--coding-speed", "4MB", "--json"
    )
    assert status == 0
    none, half = json.loads(out)["codecs"]
    assert none["rounds"][0]["round_s"] == pytest.approx(9)
    assert half["bits_per_value"] == pytest.approx(16, rel=1e-3)
    assert half["rounds"][0]["round_s"] == pytest.approx(4 + 2 + 1 + 1 + 10, rel=1e-3)
    assert half["rounds"][0]["speed_up"] == pytest.approx(9 / 18, rel=1e-3)


def test_a_tree_by_hand(planned):
    """16 workers on 4 machines: 4 MB at 1 MB/s twice across, 8 s of work divided by 16."""
    status, out, _ = planned(
        *("--bytes", 4e6, "-w", 16, "--per-machine", 4, "--topology", "tree", "--compute", 8),
        *("--bandwidth", "1MB", "--latency", 0.25, "--codec", "half", "--coding-speed", "inf", "--json"),
    )
    assert status == 0
    none, half = (one["rounds"][0]["round_s"] for one in json.loads(out)["codecs"])
    assert none == pytest.approx(0.5 + 8 + 0.5)
    assert half == pytest.approx(0.5 + 4 + 0.5, rel=1e-3)


def test_a_model_on_several_links_as_a_table(planned):
    status, out, err = planned(
        *("--model", "logistic", "--bandwidth", "1Mbit:10Mbit", "--bandwidth", "inf"),
        *("--codec", "tern_grad", "--down-codec", "half", "--server-bandwidth", "1Gbit"),
    )
    assert (status, err) == (0, "")
    assert "logistic: 7,850 values, 100 clients, 1 s of training a round" in out
    assert "1Mbit:10Mbit" in out
    assert [line for line in out.splitlines() if line.strip().startswith("tern_grad")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--codec", "tern_grd"), "did you mean 'tern_grad'"),
        (("--bandwidth", "10Mbps"), "10Mbit"),
        (("--bandwidth", "0"), "is no rate"),
        (("--bytes", "3"), "--bytes 3 holds no float32 value"),
        (("--bytes", "4e6", "--model", "cnn"), "give one of them"),
        (("--model", "cn"), "did you mean 'cnn'"),
        (("--compute", "0"), "give seconds above 0"),
        (("--workers", "0"), "clients is 0"),
        (("--latency", "-1"), "latency_s is -1"),
        (("--per-machine", "4"), "--per-machine is for --topology tree"),
        (("--topology", "tree", "--server-bandwidth", "1"), "--server-bandwidth is for --topology star"),
        (("--topology", "tree", "-w", "6", "--per-machine", "4"), "multiple of --per-machine"),
        (("--topology", "tree", "--bandwidth", "1:2"), "a silo's network has one rate"),
        (("--topology", "tree", "--scaling", "week"), "did you mean 'weak'"),
        (("--topology", "ring"), "ring"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(planned, arguments, said):
    given = arguments if "--model" in arguments or "--bytes" in arguments else ("--bytes", "4e3", *arguments)
    status, out, err = planned(*given)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
