"""The planner chooses what an exhaustive look would, on one half, and tells what the other half gave."""

import numpy as np
import pytest

from fedeff.codes.latency import coded, slowdowns
from fedeff.codes.planning import Goal, choose
from fedeff.core.delays import ShiftedExponential
from fedeff.core.errors import ConfigError

TIMES = slowdowns(ShiftedExponential(seed=5), 8, range(600))


@pytest.mark.parametrize("of", ["item", "group"])
@pytest.mark.parametrize("overhead", [0.0, 0.25, 0.5, 1.0])
def test_a_budget_buys_the_least_latency_of_the_first_half(overhead, of):
    goal = Goal(overhead=overhead, of=of)
    choice = choose(TIMES, goal)
    looked = {}
    fitting = [(k, r) for k in range(1, 9) for r in range(9 - k) if r / k <= overhead]
    for k, r in fitting:
        taken = coded(TIMES[:300], k, r).items
        looked[k, r] = np.percentile(taken if of == "item" else taken.max(axis=1), 99)
    assert choice.chosen_on == looked[choice.k, choice.r] == min(looked.values())
    assert choice.met
    assert choice.r <= overhead * choice.k


def test_a_target_is_met_with_the_least_redundancy():
    target = 3.5
    choice = choose(TIMES, Goal(target=target))
    cheaper = [latency for k, r, latency in choice.considered if r / k < choice.r / choice.k]
    assert choice.chosen_on <= target < min(cheaper)
    checked = float(np.percentile(coded(TIMES[300:], choice.k, choice.r).items, 99))
    assert choice.checked_on == checked
    assert choice.met == (checked <= target)


def test_a_target_out_of_reach_says_so():
    choice = choose(TIMES, Goal(target=0.5))
    assert not choice.met
    assert choice.chosen_on == min(latency for _, _, latency in choice.considered)


def test_a_choice_that_only_the_first_half_supports_is_told():
    """Worker 1 is slow in the second half only."""
    times = np.ones((20, 4))
    times[10:, :] = [1, 9, 9, 9]
    choice = choose(times, Goal(target=2.0, k=2))
    assert (choice.r, choice.chosen_on, choice.checked_on, choice.met) == (0, 1.0, 9.0, False)


def test_what_else_there_is_stands_beside_it():
    choice = choose(TIMES, Goal(overhead=0.5, k=4))
    names = [one.name for one in choice.measures]
    assert names == ["uncoded", f"code k=4, r={choice.r}", "two copies"]
    uncoded, chosen, copies = choice.measures
    assert chosen.item_p99 < uncoded.item_p99
    assert chosen.busy < copies.busy
    assert uncoded.overhead == 0
    assert copies.overhead == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "either a latency target or an overhead"),
        ({"target": 1.0, "overhead": 1.0}, "either a latency target or an overhead"),
        ({"target": 1.0, "percentile": 100}, "between 0 and 100"),
        ({"target": 1.0, "of": "batch"}, "write item or group"),
        ({"overhead": -1.0}, "0 or more"),
        ({"overhead": 1.0, "k": 0}, "at least 1"),
    ],
)
def test_goals_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Goal(**wrong)


def test_too_little_to_plan_with():
    with pytest.raises(ConfigError, match="choose a smaller k"):
        choose(TIMES, Goal(overhead=1.0, k=9))
    with pytest.raises(ConfigError, match="at least 2"):
        choose(TIMES[:1], Goal(overhead=1.0))
