"""The audit from the command line: each exit status, one line for each mistake, the report's path last."""

import json
import stat
from pathlib import Path

import pytest

from fedeff.cli.main import main

OPEN = ("--data", "digits", "-n", 20, "-c", "model=mlp partition=iid batch-size=1 local-steps=1")
SUMMED = (*OPEN, "-c", "cohort=20 secure-aggregation=lightsecagg")
QUICKLY = ("--attack", "phong", "--processes", 1)


@pytest.fixture
def fedeff(capfd, tmp_path, monkeypatch):
    """`fedeff("leak", ...)`: exit status, lines on stdout, text on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        capfd.readouterr()
        status = main(["audit", *(str(argument) for argument in arguments)])
        captured = capfd.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


def test_the_open_configuration_is_status_1_with_its_report(fedeff):
    status, out, err = fedeff("leak", *OPEN, *QUICKLY, "--trials", 2, "--out", "here")
    assert (status, err) == (1, "")
    assert out[-1] == "here/report.html"
    assert any(line.startswith("FAIL: ") for line in out)
    assert any(line.split()[:2] == ["phong", "2/2"] for line in out)
    files = [Path("here") / name for name in ("report.html", "report.md", "audit.json")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    record = json.loads(files[-1].read_bytes())
    assert record["verdict"]["outcome"] == "FAIL"
    assert record["configuration"]["batch-size"] == 1
    assert len(record["trials"]) == 2


def test_sums_of_many_pass_once_there_are_enough_trials(fedeff):
    few = fedeff("leak", *SUMMED, *QUICKLY, "--trials", 1)
    assert (few[0], few[2]) == (2, "")
    assert any(line.startswith("INCONCLUSIVE: ") for line in few[1])
    # ln 0.05 / ln 0.5 = 4.3
    enough = fedeff("leak", *SUMMED, *QUICKLY, "--trials", 5, "--budget", 0.5)
    assert (enough[0], enough[2]) == (0, "")
    assert any(line.startswith("PASS: ") for line in enough[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("leak --attack fong", "unknown attack 'fong'; did you mean 'phong'"),
        ("leak --attack phong --attack phong", "'phong' is named twice"),
        ("leak --tier quik", "unknown tier 'quik'; did you mean 'quick'"),
        ("leak --threat curios", "unknown threat 'curios'; did you mean 'curious'"),
        ("leak --fail-on pictures", "unknown kind of leak 'pictures'"),
        ("leak --budget 5", "budget is 5; expected a share"),
        ("leak --trials 0", "trials = 0"),
        ("leak --data digit", "did you mean 'digits'"),
        ("leak --data digits -c dataset=digits", "--data and -c dataset= both"),
        ("leak -c cohrt=5", "unknown setting 'cohrt'; did you mean 'cohort'"),
        ("leak nowhere", "nowhere is no folder"),
        ("leak --data digits --out taken", "cannot write to taken"),
        ("leak --tier", "Option '--tier' requires an argument"),
        ("matrix --attack fong", "unknown attack 'fong'; did you mean 'phong'"),
        ("matrix --defence pruneing", "unknown defence 'pruneing'"),
        ("matrix --accuracy-rounds -1", "accuracy rounds = -1"),
        ("leak --rounds 0", "rounds = 0; expected 1 to"),
        ("leak --rounds 2 --threat malicious", "rounds = 2 with threat malicious"),
        ("leak . --network a:b --rounds 2", "--rounds 2 is for the built-in app"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_status_3(fedeff, arguments, said):
    Path("taken").write_text("a file")
    status, out, err = fedeff(*arguments.split())
    assert status == 3, err
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out


def test_where_no_attack_fits_there_is_no_verdict(fedeff):
    status, _, err = fedeff("leak", *OPEN, "--attack", "imprint", "--trials", 1, "--processes", 1)
    assert status == 3
    assert "no attack can be tried on this configuration (imprint: " in err
    assert not Path("audits").exists() or not list(Path("audits").rglob("*.html"))


def test_a_bug_is_no_verdict(fedeff, monkeypatch):
    def broken(*arguments, **named):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("fedeff.audit.audit.run_audit", broken)
    status, _, err = fedeff("leak", *OPEN, *QUICKLY)
    assert status == 3
    assert err.endswith("error: ZeroDivisionError: a bug\n")
