"""Apps of others: audited as they are, by a description of what they do not say."""

from pathlib import Path

import pytest

from fedeff.audit import read_result
from fedeff.audit.judging.leaks import leaked
from fedeff.cli.main import main

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart-flower"
ONE_STEP = ("-c", "local-epochs=1 fraction-train=0.05 batch-size=16")


@pytest.fixture
def fedeff(capfd, tmp_path, monkeypatch):
    """`fedeff(...)`: exit status, lines on stdout, text on stderr of an audit of the quickstart app."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        capfd.readouterr()
        given = ["audit", "leak", str(QUICKSTART), "--processes", "1", *map(str, arguments)]
        status = main(given)
        captured = capfd.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


def test_an_unmodified_app_is_audited_beside_one_plain_step(fedeff):
    status, out, err = fedeff(
        *("--network", "apps.described:describe", "-n", 150, *ONE_STEP),
        *("--attack", "labels", "--attack", "phong", "--trials", 2, "--out", "here"),
    )
    assert status == 1, err
    assert out[-1] == "here/report.html"
    assert any(line.split()[:2] == ["phong", "2/2"] for line in out), out
    record = read_result("here/audit.json")
    assert (record.dataset, record.bundled, record.is_redacted) == ("quickstart-flower", False, True)
    assert all("phong" in leaked(trial, record.rules) for trial in record.controls)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-n 150", "name it by --network module:callable"),
        ("--network apps.described:describe", "give --clients N"),
        ("--network apps.described -n 150", "is not module:callable"),
        ("--network apps.described:decsribe -n 150", "cannot be loaded"),
        ("--network apps.described:confused -n 150", "gives a str, expected"),
        ("--network apps.described:describe -n 150 --threat malicious", "takes curious"),
        ("--network apps.described:describe -n 150 -c local-epoch=1", "did you mean 'local-epochs'"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line_and_status_3(fedeff, arguments, said):
    status, out, err = fedeff(*arguments.split())
    assert status == 3, err
    assert said in err
    assert err.count("\n") == 1
    assert not out
