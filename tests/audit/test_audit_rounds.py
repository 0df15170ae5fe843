"""Several rounds of one client: they tell more together, and what cannot be asked of them is refused."""

from dataclasses import replace

import numpy as np
import pytest
from audit.views import SmoothNet, digits, psnr, seeded, view_of

from fedeff.app import Settings
from fedeff.audit import audit_leak
from fedeff.audit.attacks.phong import Phong
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.union import joined, shown_to
from fedeff.audit.victims import chosen_victims
from fedeff.core.errors import AuditError, ConfigError

MANY_ROWS = Settings(dataset="digits", model="mlp", partition="iid", cohort=5, batch_size=1, local_steps=1)
ONE_ROW = replace(MANY_ROWS, codec="random_k(0.05)")


def finding(inputs=None, labels=None, loss=float("nan"), converged=True) -> Finding:
    return Finding("phong", inputs, labels, loss, converged, 2.0, {"inputs found": 1.0})


def test_rounds_on_one_row_tell_together_what_none_of_them_tells() -> None:
    shown = chosen_victims(ONE_ROW, 1437, lambda unknowns: 3, rounds=6)
    assert {len(one.captured.view.exchanges) for one in shown} == {6}
    for one in shown:
        view, truth = one.captured.view, one.captured.truth.inputs
        assert view.same_rows
        alone = replace(view, exchanges=view.exchanges[:1])
        found = [Phong().run(each, Budget(5.0), np.random.default_rng(0)).inputs for each in (alone, view)]
        assert psnr(found[0], truth) < 25 < 80 < psnr(found[1], truth)


def test_rounds_on_different_rows_are_attacked_one_by_one_and_judged_together() -> None:
    result = audit_leak(MANY_ROWS, clients=5, attacks=["phong"], trials=2, rounds=3, processes=1)
    assert (result.exchanges, result.verdict.outcome) == (3, "FAIL")
    for trial in result.trials:
        assert trial.rows == 3
        assert min(trial.attempts[0].score.psnr_db) > 60
    assert not result.worst_case  # whose labels are whose is not told
    assert all(trial.rows == 1 for trial in result.controls)


def test_the_same_cohort_is_asked_in_every_round() -> None:
    shown = chosen_victims(MANY_ROWS, 20, lambda unknowns: 5, rounds=2)
    assert len({one.partitions for one in shown}) == 5
    assert {one.seed for one in shown} == {0}
    again = chosen_victims(MANY_ROWS, 20, lambda unknowns: 5, rounds=2)
    assert [one.partitions for one in again] == [one.partitions for one in shown]


def test_views_stay_together_where_the_attack_can_take_them_so() -> None:
    x, y = digits(1)
    view, _ = view_of(seeded(SmoothNet), x, y)
    both = replace(view, exchanges=(view.first, replace(view.first, server_round=2)))
    assert shown_to(both, lambda one: None) == (both,)
    assert shown_to(both, lambda one: "no") == ()
    (second,) = shown_to(both, lambda one: None if one.first.server_round == 2 else "not this one")
    assert second.exchanges == both.exchanges[1:]
    assert len(shown_to(replace(both, same_rows=False), lambda one: None)) == 2


def test_findings_of_rounds_are_joined_without_losing_a_failure() -> None:
    x, y = digits(3)
    parts = [finding(x[:1], y[:1], 0.1), finding(x[1:], y[1:], 0.3, converged=False)]
    whole = joined(parts)
    assert np.array_equal(whole.inputs, x)
    assert np.array_equal(whole.labels, y)
    assert (whole.loss, whole.converged, whole.seconds) == (0.3, False, 4.0)
    assert whole.facts == {"inputs found": 2.0}
    assert joined([finding(x), finding(x, y)]).labels is None
    assert np.isnan(joined([finding(), finding()]).loss)
    assert joined(parts[:1]) is parts[0]


@pytest.mark.parametrize(
    ("changes", "more", "error", "said"),
    [
        ({}, {"rounds": 0}, ConfigError, "rounds = 0; expected 1 to"),
        ({"num_server_rounds": 3}, {"rounds": 4}, ConfigError, "rounds = 4; expected 1 to 3"),
        ({}, {"rounds": 2, "threat": "malicious"}, ConfigError, "rounds = 2 with threat malicious"),
        ({}, {"rounds": 2, "threat": "informed"}, AuditError, "rounds are of different rows"),
        ({}, {"rounds": 2, "fail_on": ["labels"]}, AuditError, "rounds are of different rows"),
    ],
    ids=["none", "more than the run", "malicious", "informed", "labels"],
)
def test_what_rounds_cannot_be_asked_is_refused(changes, more, error, said) -> None:
    with pytest.raises(error, match=said):
        audit_leak(replace(MANY_ROWS, **changes), clients=5, attacks=["phong"], trials=1, **more)
