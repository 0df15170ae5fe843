"""Which code to use: `k` and `r` for a latency to meet or an overhead to keep, chosen and checked apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.codes.latency import Latencies, coded, replicated
from fedeff.core.errors import ConfigError

__all__ = ["Choice", "Goal", "Measure", "choose", "measure"]

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Goal:
    """What is asked: at most this much at a percentile, or at most this much redundancy, not both.

    `of` says whose latency counts: that of an item, or that of a whole group, which is as late as its
    last item. `k` fixes the size of groups; None leaves it to the planner.
    """

    target: float | None = None  # latency in the unit of the delays
    overhead: float | None = None  # r / k
    percentile: float = 99.0
    of: str = "item"
    k: int | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.overhead is None):
            raise ConfigError("say either a latency target or an overhead budget")
        if not 0 < self.percentile < 100:
            raise ConfigError(f"percentile is {self.percentile}, expected a number between 0 and 100")
        if self.of not in ("item", "group"):
            raise ConfigError(f"latency of {self.of!r} is unknown; write item or group")
        for name in ("target", "overhead"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}, expected a finite number of 0 or more")
        if self.k is not None and self.k < 1:
            raise ConfigError(f"k is {self.k}, expected at least 1")

    def latency(self, of: Latencies) -> float:
        """What the goal is about."""
        return float(np.percentile(of.items if self.of == "item" else of.groups, self.percentile))


@dataclass(frozen=True)
class Measure:
    """What a way to run groups of `k` costs and gives, in the unit of the delays."""

    name: str
    overhead: float  # tasks beyond one for each item, by item
    item_p50: float
    item_p99: float
    item_p999: float
    group_p50: float
    group_p99: float
    busy: float  # worker time an item, none of it cancelled


@dataclass(frozen=True)
class Choice:
    """The code that was chosen, what the goal's latency was where it was chosen and where it was checked."""

    k: int
    r: int
    chosen_on: float
    checked_on: float
    met: bool  # in the check
    considered: tuple[tuple[int, int, float], ...]  # (k, r, latency where it was chosen)
    measures: tuple[Measure, ...]  # of the check: uncoded, the chosen code, whole copies


def choose(times: NDArray, goal: Goal) -> Choice:
    """The code for the goal: the least redundancy that meets a target, or the least latency of a budget.

    `times` is `(rounds, workers)`, as `slowdowns` gives. The first half of the rounds decides; the second,
    which the choice has not seen, says what it gives. Of equal ones the smaller group wins, since it waits
    less to fill. Where nothing meets a target, what comes nearest is chosen and `met` is false.

    Raises:
        ConfigError: if no code fits the workers or the budget, or there are fewer than 2 rounds.
    """
    if len(times) < 2:
        raise ConfigError(f"{len(times)} rounds of delays; one half chooses and one checks: give at least 2")
    seen, unseen = times[: len(times) // 2], times[len(times) // 2 :]
    found = [(k, r, goal.latency(coded(seen, k, r))) for k, r in _candidates(times.shape[1], goal)]
    k, r, latency = min(found, key=lambda one: _cost(one, goal))
    checked = goal.latency(coded(unseen, k, r))
    measures = (
        measure("uncoded", coded(unseen, k, 0), 0.0),
        measure(f"code k={k}, r={r}", coded(unseen, k, r), r / k),
        *([measure("two copies", replicated(unseen, k, 2), 1.0)] if 2 * k <= times.shape[1] else []),
    )
    met = goal.target is None or checked <= goal.target
    return Choice(k, r, latency, checked, met, tuple(found), measures)


def measure(name: str, taken: Latencies, overhead: float) -> Measure:
    """Percentiles of what was taken."""
    item_p50, item_p99, item_p999 = (float(one) for one in np.percentile(taken.items, (50, 99, 99.9)))
    group_p50, group_p99 = (float(one) for one in np.percentile(taken.groups, (50, 99)))
    busy = float(taken.busy.sum() / taken.items.size)
    return Measure(name, overhead, item_p50, item_p99, item_p999, group_p50, group_p99, busy)


def _candidates(workers: int, goal: Goal) -> Sequence[tuple[int, int]]:
    sizes = range(1, workers + 1) if goal.k is None else [goal.k]
    fitting = [(k, r) for k in sizes for r in range(workers - k + 1)]
    if goal.overhead is not None:
        fitting = [(k, r) for k, r in fitting if r <= goal.overhead * k]
    if not fitting:
        raise ConfigError(f"groups of k={goal.k} do not fit {workers} workers; choose a smaller k")
    return fitting


def _cost(one: tuple[int, int, float], goal: Goal) -> tuple[float, ...]:
    """What is to be least, in the order of importance."""
    k, r, latency = one
    if goal.target is None:
        return (latency, r / k, k)
    return (0.0, r / k, k, latency) if latency <= goal.target else (1.0, latency, r / k, k)
