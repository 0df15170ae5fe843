"""Which delay model a trace looks like, and how far its workers are slow together."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.core.delays import Bimodal, DelayModel, Pareto, ShiftedExponential, Weibull
from fedeff.core.traces import Trace

__all__ = ["Fitted", "Togetherness", "fit_delays", "togetherness"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_SLOW = 2.0  # times the median counts as slow
_BESIDE = 1e-9  # relative: nearer than values differ that are not equal


@dataclass(frozen=True)
class Fitted:
    """A delay model fitted to slowdowns, and the largest gap between its distribution and theirs."""

    spec: str  # as `parse_delays` takes it
    model: DelayModel
    distance: float  # Kolmogorov-Smirnov statistic, in [0, 1]: 0 is a perfect fit


@dataclass(frozen=True)
class Togetherness:
    """How often workers are slow (twice the median) at once, against what independence would give."""

    slow: float  # share of tasks that are slow
    several: float  # share of rounds in which two or more workers are slow
    independent: float  # the same, were workers independent
    given_one: float  # mean number of slow workers in the rounds that have any


def fit_delays(trace: Trace) -> tuple[Fitted, ...]:
    """Every delay model fitted to the trace's slowdowns, the best first; models that cannot fit are left out.

    Shifted exponential, Pareto and Weibull by maximum likelihood, the bimodal one by the split of the
    logarithms into two groups of least variance (Otsu). Each task counts for itself: a fitted model knows
    nothing of workers that are slow together, see `togetherness`.
    """
    x = np.sort((trace.durations / np.median(trace.durations)).ravel())
    found = [one for fit in (_exponential, _pareto, _weibull, _bimodal) if (one := fit(x)) is not None]
    return tuple(sorted(found, key=lambda one: one.distance))


def togetherness(trace: Trace) -> Togetherness:
    """How far the trace's workers are slow at the same time."""
    slow = trace.durations > _SLOW * np.median(trace.durations)
    counts, workers = slow.sum(axis=1), slow.shape[1]
    share = slow.mean(axis=0)  # of each worker: one that is always slow is no coincidence
    none = float(np.prod(1 - share))
    one = float(sum(share[i] * np.prod(1 - np.delete(share, i)) for i in range(workers)))
    return Togetherness(
        slow=float(slow.mean()),
        several=float((counts >= 2).mean()),
        independent=max(0.0, 1 - none - one),
        given_one=float(counts[counts > 0].mean()) if counts.any() else 0.0,
    )


def _exponential(x: NDArray) -> Fitted | None:
    shift, mean = float(x[0]), float(x.mean() - x[0])
    if not mean > 0:
        return None
    model = ShiftedExponential(shift, mean)
    return _fitted(
        f"exponential:{shift:.4g},{mean:.4g}", model, x, lambda at: 1 - np.exp(-(at - shift) / mean)
    )


def _pareto(x: NDArray) -> Fitted | None:
    scale = float(x[0])
    spread = float(np.log(x / scale).mean()) if scale > 0 else 0.0
    if not spread > 0:
        return None
    shape = 1 / spread
    return _fitted(
        f"pareto:{shape:.4g},{scale:.4g}", Pareto(shape, scale), x, lambda at: 1 - (scale / at) ** shape
    )


def _weibull(x: NDArray) -> Fitted | None:
    from scipy.stats import weibull_min

    positive = x[x > 0]  # a duration of 0 has no likelihood
    if not positive[0] < positive[-1]:
        return None
    shape, _, scale = (float(value) for value in weibull_min.fit(positive, floc=0))
    return _fitted(
        f"weibull:{shape:.4g},{scale:.4g}",
        Weibull(shape, scale),
        x,
        lambda at: 1 - np.exp(-((at / scale) ** shape)),
    )


def _bimodal(x: NDArray) -> Fitted | None:
    logs = np.log(np.maximum(x, 1e-6))
    if not logs[0] < logs[-1]:
        return None
    cut = _least_variance_cut(logs)
    factor, share = float(np.exp(logs[cut:].mean() - logs[:cut].mean())), (x.size - cut) / x.size
    model = Bimodal(factor, share)
    return _fitted(
        f"bimodal:{factor:.4g},{share:.4g}",
        model,
        x,
        lambda at: np.where(at < 1, 0.0, np.where(at < factor, 1 - share, 1.0)),
    )


def _least_variance_cut(ordered: NDArray) -> int:
    """Where to cut ordered values in two so that the parts vary least within, at least one in each."""
    below, total = np.cumsum(ordered)[:-1], float(ordered.sum())
    count = np.arange(1, ordered.size)
    between = (total * count / ordered.size - below) ** 2 / (count * (ordered.size - count))
    return int(between.argmax()) + 1


def _fitted(spec: str, model: DelayModel, x: NDArray, cdf: Callable[[NDArray], NDArray]) -> Fitted:
    at, counts = np.unique(x, return_counts=True)
    share = np.cumsum(counts) / x.size
    # Just beside each value, since what has atoms jumps there.
    after, before = (
        np.abs(share - cdf(at * (1 + _BESIDE))),
        np.abs(share - counts / x.size - cdf(at * (1 - _BESIDE))),
    )
    distance = float(max(after.max(), before.max()))
    return Fitted(spec, model, distance if math.isfinite(distance) else 1.0)
