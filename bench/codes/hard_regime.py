"""Rounds that do not wait for slow clients: what stands in for them, at equal virtual time."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import bootstrap

from bench.codes.late_rounds import Regime, SpanOracle, play
from bench.figures import Figure, Spread
from bench.seeded.row import Case, Measured, Row, difference
from fedeff.strategies import DeadlineAveraging, FedAvg, FedBuff
from fedeff.strategies.missing import Estimator, FedVARP

__all__ = ["hard_regime_rows"]

_DEADLINE = 1.05  # time units: whoever takes one is in time
_DRIFT, _GRAM = "drift-corrected", "Gram-space decoder"
_SPAN, _CEILING = "oracle: nearest in the span", "nobody is slow"
_EARLY, _END = "accuracy at 32 units, %", "accuracy at 64 units, %"
_AT = {_EARLY: range(25, 33), _END: range(57, 65)}  # means over what a slow client's round takes
_SEEDS, _EASY_SEEDS = range(3, 8), range(3, 6)
_NOT_EASY = ("over-select 1.3x", "FedBuff", "FedStale 0.5", "ridge")
_T_95 = {
    2: 12.706,
    3: 4.303,
    4: 3.182,
    5: 2.776,
    6: 2.571,
    7: 2.447,
    8: 2.365,
}  # Student, two-sided, by seeds


def hard_regime_rows() -> list[Row]:
    """The hard regime, and the easy one in which nothing is expected."""
    hard, easy = Regime(exclusive=True), Regime(exclusive=False)
    return [
        Row(
            "missing-hard",
            "Slow clients own classes: what stands in for them",
            hard.told(),
            partial(_run, regime=hard),
            _asked,
            _NOTE,
            seeds=_SEEDS,
            beside_others=True,
        ),
        Row(
            "missing-easy",
            "Slow clients like all others: what stands in for them",
            easy.told(),
            partial(_run, regime=easy),
            _not_asked,
            _EASY_NOTE,
            seeds=_EASY_SEEDS,
            beside_others=True,
        ),
    ]


def _cases(regime: Regime, seed: int) -> dict[str, Callable[[], FedAvg]]:
    everybody = regime.clients

    def closing(missing: str | Estimator, quorum: float = 1.0) -> Callable[[], FedAvg]:
        return lambda: DeadlineAveraging(
            missing=missing, quorum=quorum, deadline_s=_DEADLINE, cohort=everybody, seed=seed
        )

    return {
        "wait for all": lambda: FedAvg(cohort=everybody, seed=seed),
        "drop": closing("drop"),
        "over-select 1.3x": closing("drop", quorum=1 / 1.3),
        "FedBuff": lambda: FedBuff(concurrency=everybody, buffer=everybody // 4, seed=seed),
        "stale (MIFA)": closing("stale"),
        "FedVARP": closing("fedvarp"),
        "FedStale 0.5": closing(FedVARP(0.5)),
        _DRIFT: closing("drift"),
        "ridge": closing("ridge"),
        _GRAM: closing("gram"),
        _SPAN: closing(SpanOracle(regime, seed)),
    }


def _run(seed: int, *, regime: Regime) -> Measured:
    cases = _cases(regime, seed)
    chosen = [name for name in cases if regime.exclusive or name not in _NOT_EASY]
    measured = {name: _case(regime, cases[name](), seed) for name in chosen}
    nobody_slow = replace(regime, factor=1.0)
    return {**measured, _CEILING: _case(nobody_slow, FedAvg(cohort=regime.clients, seed=seed), seed)}


def _case(regime: Regime, strategy: FedAvg, seed: int) -> Case:
    marks = tuple(mark for times in _AT.values() for mark in times)
    scores = play(regime, strategy, seed, marks)
    return {name: 100 * statistics.mean(scores[mark] for mark in times) for name, times in _AT.items()}


def _asked(seeds: Sequence[Measured]) -> list[Figure]:
    ahead = difference(seeds, _END, _GRAM, _DRIFT)
    low = None if ahead is None else _lower_end(ahead)
    worst = None if ahead is None else Spread((min(ahead.values),))
    return [
        Figure("decoder ahead of drift-corrected", ahead, unit="points"),
        Figure("the same, lower end of the mean's 95% interval (t)", low, at_least=0.0, unit="points"),
        Figure("the same, by the bootstrap", _resampled(ahead), at_least=0.0, unit="points"),
        Figure("seeds in which the decoder is ahead", _seeds_ahead(ahead), unit="seeds", digits=0),
        Figure("the same, worst seed", worst, at_least=-0.5, unit="points"),
        *_not_asked(seeds),
    ]


def _not_asked(seeds: Sequence[Measured]) -> list[Figure]:
    pairs = ((_GRAM, "drop"), (_GRAM, "stale (MIFA)"), (_GRAM, "ridge"), (_SPAN, _GRAM), (_CEILING, _GRAM))
    there = set.intersection(*(set(measured) for measured in seeds))
    return [
        Figure(f"{one} ahead of {other}", difference(seeds, _END, one, other), unit="points")
        for one, other in pairs
        if {one, other} <= there
    ]


def _resampled(ahead: Spread | None) -> Spread | None:
    """The lower end of the same interval by resampled seeds, which no normal distribution is assumed for."""
    if ahead is None or len(ahead.values) < 2:
        return None
    found = bootstrap((ahead.values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return Spread((float(found.confidence_interval.low),))


def _seeds_ahead(ahead: Spread | None) -> Spread | None:
    return None if ahead is None else Spread((float(sum(value > 0 for value in ahead.values)),))


def _lower_end(ahead: Spread) -> Spread | None:
    """Of the 95% interval of the mean over seeds, by Student's t; None for a single seed."""
    count = len(ahead.values)
    if count < 2:
        return None
    wide = _T_95.get(count, 2.262) * statistics.stdev(ahead.values) / math.sqrt(count)
    return Spread((statistics.mean(ahead.values) - wide,))


_NOTE = """Fashion-MNIST, a CNN of 5,994 weights, 100 clients of 300 rows, all in every round, 10 steps on
batches of 10. The first 30 take 8 time units a round and hold two each of the classes 7 to 9, the others one
unit and two each of the classes 0 to 6. A round ends after 1.05 units; accuracies are means over eight models
a unit apart, each the last that was there at that time. Every method has the same clients. The learning rate
is the one of 0.05, 0.1, 0.2 and 0.4 with which FedAvg comes furthest in 32 units when nobody is slow, on a
seed that is not here. The decoder's features, its folds and its gate were chosen on seeds 0 to 2, mostly of
smaller tasks with MLPs; nothing else was tuned. The first oracle asks the missing clients and takes of their
true updates the nearest point that sums of the basis reach, layer by layer; the second runs FedAvg where
everybody takes one unit. Replication and gradient codes need clients that share data, which these do not."""
_EASY_NOTE = """As before, but every client holds 300 rows of all classes: slow clients are like the others,
and no difference is expected."""
