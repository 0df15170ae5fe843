"""Latency of groups of tasks under delays that are replayed for every way to beat slow workers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.figures import Figure
from bench.harness import ROOT
from bench.seeded.row import Case, Measured, Row, ratio
from fedeff.codes.latency import slowdowns
from fedeff.codes.planning import Goal, choose
from fedeff.codes.serving import Scheme, serve
from fedeff.core.delays import DelayModel, parse_delays
from fedeff.core.rng import generator
from fedeff.core.traces import Trace

__all__ = ["latency_rows"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_K, _GROUPS = 10, 4000
_LOAD = 0.3  # of the ten workers, uncoded
_APART_S = 100_003.0  # so that nothing queues; a prime, so that it meets every round of a trace
_UNCODED, _EQUAL, _HEDGED, _COPIES = "uncoded, 10 workers", "equal resources, 15", "hedged, 15", "copies, 20"
_FIFTH, _HALF = "code r=2, 12", "code r=5, 15"
_SCHEMES = {
    _UNCODED: Scheme(10, _K),
    _EQUAL: Scheme(15, _K),
    _HEDGED: Scheme(15, _K, hedge_after_s=2.0),
    _COPIES: Scheme(20, _K, copies=2),
    _FIFTH: Scheme(10, _K, r=2, parity_workers=2),
    _HALF: Scheme(10, _K, r=5, parity_workers=5),
}
_GAP, _GROUP = "p99.9 - p50", "group p99"
_PLANNED, _UNPLANNED = "code that the planner chose", "uncoded"
_DRAWN = {
    "exponential": ("1 + Exp(1)", "exponential:1,1"),
    "pareto": ("Pareto 2", "pareto:2"),
    "bimodal": ("8x with probability 0.1", "bimodal:8,0.1"),
}
_TRACES = ROOT / "../shared/data/traces/alibaba-pai-2020"
_JOBS = ("job_1", "job_3", "job_4")

_NOTE = f"""{_GROUPS:,} groups of {_K} items; latencies in median task times. Without load a group comes when
all others are answered; under load groups come at random times, such that ten workers are busy {_LOAD:.0%} of
the time when uncoded. A worker is as slow as its delay says at the time a task begins, whatever the scheme.
Tasks that run are never cancelled, those that wait are dropped once nobody needs them."""
_OF_TRACES = """The trace is of ten workers; further ones replay it from another place. It is normalised to
0..1000, which may distort ratios. The planner saw the first half of the trace and is measured on the second,
with the trace's ten workers and an overhead of at most a half."""


def latency_rows() -> list[Row]:
    """A row for each delay model, and for each trace that is here."""
    drawn = [
        _row(key, f"Latency under {what}", spec, partial(_asked, drawn=True))
        for key, (what, spec) in _DRAWN.items()
    ]
    recorded = [
        _row(key, f"Latency on the trace {key}", f"trace:{path}", partial(_asked, drawn=False))
        for key in _JOBS
        if (path := _TRACES / f"{key}_norm.csv").exists()
    ]
    return [*drawn, *recorded]


def _row(key: str, title: str, spec: str, asked: Any) -> Row:
    settings: Mapping[str, bool | int | float | str] = {
        "delays": spec.rpartition("/")[2],
        "k": _K,
        "groups": _GROUPS,
        "load": _LOAD,
        "schemes": str(_SCHEMES),
    }
    run = partial(_run, spec=spec)
    return Row(f"latency-{key}", title, settings, run, asked, _note(spec), beside_others=True)


def _run(seed: int, *, spec: str) -> Measured:
    """Every scheme alone and under load; on a trace also what the planner makes of its first half."""
    delays = parse_delays(spec, seed)
    median = float(np.median(slowdowns(delays, _K, range(500))))
    alone_s = _APART_S * np.arange(_GROUPS)
    mean = float(slowdowns(delays, _K, range(500)).mean())
    between_s = generator(seed, purpose="arrivals").exponential(mean / _LOAD, _GROUPS)
    measured = {
        name: _case(scheme, delays, median, alone_s, between_s.cumsum()) for name, scheme in _SCHEMES.items()
    }
    return {**measured, **(_planned(delays) if isinstance(delays, Trace) else {})}


def _case(scheme: Scheme, delays: DelayModel, median: float, alone_s: NDArray, busy_s: NDArray) -> Case:
    alone, loaded = serve(scheme, alone_s, delays, 1.0), serve(scheme, busy_s, delays, 1.0)
    p50, p99, p999 = np.percentile(alone.items, (50, 99, 99.9)) / median
    loaded_p50, loaded_p999 = np.percentile(loaded.items, (50, 99.9)) / median
    return {
        "p50": float(p50),
        "p99": float(p99),
        "p99.9": float(p999),
        _GAP: float(p999 - p50),
        _GROUP: float(np.percentile(alone.items.max(axis=1), 99) / median),
        "busy an item": alone.busy_s / alone.items.size / median,
        "p50 under load": float(loaded_p50),
        "p99.9 under load": float(loaded_p999),
    }


def _planned(trace: Trace) -> Measured:
    """The planner's choice within half as many tasks more, on the half of the trace that it did not see."""
    rounds, workers = trace.durations.shape
    choice = choose(slowdowns(trace, workers, range(rounds)), Goal(overhead=0.5))
    uncoded, chosen = choice.measures[:2]
    return {
        name: {"k": choice.k, "r": r, "p50": one.item_p50, "p99": one.item_p99, "p99.9": one.item_p999}
        | {_GAP: one.item_p999 - one.item_p50, _GROUP: one.group_p99, "busy an item": one.busy}
        for name, one, r in (
            (f"planner: {_UNPLANNED}", uncoded, 0),
            (f"planner: {_PLANNED}", chosen, choice.r),
        )
    }


def _note(spec: str) -> str:
    return _NOTE if not spec.startswith("trace:") else f"{_NOTE}\n{_OF_TRACES}"


def _asked(seeds: Sequence[Measured], *, drawn: bool) -> list[Figure]:
    narrower = ratio(seeds, _GAP, _EQUAL, _HALF)
    figures = [
        Figure("equal resources' p99.9 - p50 ÷ the code's, r=5", narrower, at_least=3.5 if drawn else None),
        Figure("the code's p50 ÷ equal resources'", ratio(seeds, "p50", _HALF, _EQUAL)),
        Figure("the code's group p99, r=2 ÷ that of copies", ratio(seeds, _GROUP, _FIFTH, _COPIES)),
    ]
    if drawn:
        return figures
    gain = ratio(seeds, "p99", f"planner: {_UNPLANNED}", f"planner: {_PLANNED}")
    return [*figures, Figure("uncoded p99 ÷ that of the planner's code, unseen half", gain)]
