"""The page of a code: what it answers without the slow ones, how soon, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from fedeff.report.page import Key, Page, Picture, Section, Table, Tile, write_page
from fedeff.report.theme import INK, MUTED, SERIES, dash_of, figure, quiet
from fedeff.report.units import percent

__all__ = ["CodeScore", "accuracy_figure", "latency_figure", "pareto_figure", "write_codes"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_TAIL = 99.9


@dataclass(frozen=True, eq=False)
class CodeScore:
    """One way to beat slow workers, as it was measured.

    `latencies` are of items, in any order and of one unit over all scores. `accuracy` is that of answers
    by how many of a group's tasks were missing: at 0 the function's own; empty where answers are exact.
    """

    name: str
    overhead: float  # tasks beyond one for each item, by item
    latencies: NDArray = field(default_factory=lambda: np.empty(0))
    accuracy: Mapping[int, float] = field(default_factory=dict)
    encode_ms: float | None = None  # of a group
    decode_ms: float | None = None

    @property
    def tail(self) -> float:
        """The latency that one item in a thousand exceeds."""
        return float(np.percentile(self.latencies, _TAIL))


def write_codes(scores: Sequence[CodeScore], title: str, subtitle: str, unit: str, path: Path | str) -> Path:
    """Write the page and return its path; `unit` is that of latencies, such as "median task times"."""
    timed = [score for score in scores if score.latencies.size]
    rated = [score for score in scores if score.accuracy]
    pictures = []
    if timed:
        waits, tail = latency_figure(scores, unit), pareto_figure(timed, unit)
        pictures = [
            Picture("Items that wait longer", waits, "Further left is faster.", _keys(scores, timed)),
            Picture("Tail against redundancy", tail, "Low and left is better."),
        ]
    if rated:
        note = "By tasks of a group that are missing."
        pictures.append(Picture("Accuracy of answers", accuracy_figure(scores), note, _keys(scores, rated)))
    section = Section("What it gives", pictures=tuple(pictures), tables=(_table(scores, unit),))
    return write_page(Page(title, subtitle, _tiles(timed, rated), (section,)), Path(path))


def latency_figure(scores: Sequence[CodeScore], unit: str) -> Figure:
    """The share of items that take longer than a latency, on logarithmic axes."""
    drawn = figure(5.4, 3.4)
    axes = quiet(drawn.add_subplot(), f"Latency, {unit}", "Items that wait longer")
    for number, score in enumerate(scores):
        if score.latencies.size:
            later = 1 - np.arange(score.latencies.size) / score.latencies.size
            colour = SERIES[number % len(SERIES)].light
            axes.step(
                np.sort(score.latencies),
                later,
                color=colour,
                linewidth=1.8,
                linestyle=dash_of(number),
                zorder=3,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.minorticks_off()
    return drawn


def accuracy_figure(scores: Sequence[CodeScore]) -> Figure:
    """Accuracy by the number of tasks that are missing."""
    drawn = figure(5.4, 3.4)
    axes = quiet(drawn.add_subplot(), "Tasks of a group that are missing", "Accuracy")
    for number, score in enumerate(scores):
        if score.accuracy:
            places = sorted(score.accuracy)
            axes.plot(
                places,
                [score.accuracy[place] for place in places],
                color=SERIES[number % len(SERIES)].light,
                linestyle=dash_of(number),
                linewidth=1.8,
                marker="o",
                markersize=3.5,
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return drawn


def pareto_figure(scores: Sequence[CodeScore], unit: str) -> Figure:
    """Each score's tail latency against its redundancy; the front is what nothing else beats in both."""
    drawn = figure(5.4, 3.4)
    axes = quiet(drawn.add_subplot(), "Tasks beyond one for each item", f"p{_TAIL:g}, {unit}")
    front = sorted(_front(scores), key=lambda score: score.overhead)
    axes.step(
        [score.overhead for score in front],
        [score.tail for score in front],
        where="post",
        color=MUTED.light,
        linewidth=1.0,
        linestyle=(0, (2, 2)),
    )
    for number, score in enumerate(scores):
        axes.plot(score.overhead, score.tail, "o", color=SERIES[number % len(SERIES)].light, markersize=6)
        axes.annotate(
            score.name, (score.overhead, score.tail), xytext=(6, 5), textcoords="offset points",
            fontsize=8.5, color=INK.light,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.18)
    return drawn


def _front(scores: Sequence[CodeScore]) -> list[CodeScore]:
    return [
        one
        for one in scores
        if not any(
            (other.overhead, other.tail) != (one.overhead, one.tail)
            and other.overhead <= one.overhead
            and other.tail <= one.tail
            for other in scores
        )
    ]


def _tiles(timed: Sequence[CodeScore], rated: Sequence[CodeScore]) -> tuple[Tile, ...]:
    """The shortest tail, and the best accuracy with a task missing."""
    tiles = []
    if timed:
        best, first = min(timed, key=lambda score: score.tail), timed[0]
        note = (
            f"{best.name}; {first.tail / best.tail:.2f}× shorter than {first.name}"
            if best != first
            else best.name
        )
        tiles.append(Tile(f"Shortest tail (p{_TAIL:g})", f"{best.tail:.3g}", note))
    missing = [score for score in rated if 1 in score.accuracy]
    if missing:
        best = max(missing, key=lambda score: score.accuracy[1])
        tiles.append(Tile("Accuracy with one task missing", percent(best.accuracy[1]), best.name))
    return tuple(tiles)


def _table(scores: Sequence[CodeScore], unit: str) -> Table:
    missing = sorted({count for score in scores for count in score.accuracy})
    header = (
        "",
        "overhead",
        *(f"p{p:g}" for p in (50, 99, _TAIL)),
        *(f"{count} missing" for count in missing),
    )
    coding = any(score.encode_ms is not None for score in scores)
    rows = []
    for score in scores:
        latencies = (
            [f"{value:.3g}" for value in np.percentile(score.latencies, (50, 99, _TAIL))]
            if score.latencies.size
            else ["—"] * 3
        )
        rates = [percent(score.accuracy[count]) if count in score.accuracy else "—" for count in missing]
        times = [_ms(score.encode_ms), _ms(score.decode_ms)] if coding else []
        rows.append((score.name, percent(score.overhead), *latencies, *rates, *times))
    header += ("encode", "decode") if coding else ()
    return Table(
        header, tuple(rows), title=f"Latencies of items in {unit}; accuracy of answers" if missing else ""
    )


def _keys(scores: Sequence[CodeScore], drawn: Sequence[CodeScore]) -> tuple[Key, ...]:
    """The legend of those that are drawn, each by its place among all."""
    return tuple(Key(score.name, number) for number, score in enumerate(scores) if score in drawn)


def _ms(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f} ms"
