"""`fedeff codes plan` from the outside: a choice that can be looked up, and one line for a wrong request."""

import json

import numpy as np
import pytest

from fedeff.cli.main import main


@pytest.fixture
def planned(capfd, monkeypatch):
    """`planned("--delays", ...)`: exit status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        capfd.readouterr()
        status = main(["codes", "plan", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def trace(tmp_path):
    """Four workers, of which the first takes three times as long in every second round."""
    rows = [f"{w},{t},{3 if w == 0 and t % 2 else 1}" for t in range(40) for w in range(4)]
    path = tmp_path / "job.csv"
    path.write_text("\n".join(["worker,time,duration", *rows]) + "\n")
    return path


def test_one_parity_for_one_slow_worker(planned, trace):
    status, out, err = planned("--trace", trace, "--target", 1, "--percentile", 99, "--json")
    assert (status, err) == (0, "")
    choice = json.loads(out)
    assert (choice["k"], choice["r"], choice["checked_on"], choice["met"]) == (3, 1, 1.0, True)


def test_the_table_tells_of_the_trace_and_of_what_else_there_is(planned, trace):
    status, out, _ = planned("--trace", trace, "--overhead", 1, "--k", 2)
    assert status == 0
    assert "4 workers, 40 rounds" in out
    assert "slow (2x the median): 12.5% of tasks; two or more at once in 0.0% of rounds" in out
    assert "k = 2, r = 1: overhead 50% (asked: overhead <= 1)" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["uncoded", "code", "two"]


def test_a_target_that_no_code_meets_says_so(planned):
    status, out, _ = planned("--delays", "exponential:1,1", "--target", 0.5, "--workers", 3)
    assert status == 0
    assert "the target is not met in the check" in out


def test_equal_seeds_equal_choices(planned):
    asked = ("--delays", "pareto:2", "--overhead", 0.5, "--workers", 2, "--json")
    assert planned(*asked) == planned(*asked)
    assert not np.isclose(*(json.loads(planned(*asked, "--seed", s)[1])["chosen_on"] for s in (0, 1)), rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --trace CSV or --delays SPEC"),
        (("--delays", "pareto:2", "--column", "x"), "is of a trace"),
        (("--delays", "paretto"), "did you mean 'pareto'"),
        (("--delays", "pareto:2", "--k", 40), "choose a smaller k"),
        (("--delays", "pareto:2", "--target", 1, "--overhead", 1), "either a latency target or an overhead"),
        (("--trace", "nowhere.csv"), "cannot read the trace nowhere.csv"),
    ],
)
def test_wrong_requests_get_one_line(planned, arguments, message):
    status, out, err = planned(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_more_workers_than_the_trace_has(planned, trace):
    status, _, err = planned("--trace", trace, "--workers", 5)
    assert status == 2
    assert "has 4; leave it out or ask for fewer" in err
