"""Lines over rounds, bytes and seconds: one run, or several runs laid over each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from fedeff.core.records import RoundRecord
from fedeff.report.theme import MUTED, SERIES, dash_of, figure, quiet, units_on_x
from fedeff.report.units import human_bytes, human_seconds, percent

__all__ = [
    "AXES",
    "Axis",
    "Curve",
    "Read",
    "accuracy_of",
    "curve_figure",
    "faults_figure",
    "loss_of",
    "points",
    "series_figure",
]

Read = Callable[[RoundRecord], float | None]

_FORMATS: dict[str, Callable[[float], str]] = {
    "bytes": human_bytes,
    "seconds": human_seconds,
    "share": lambda value: f"{100 * value:.0f}%",
}


@dataclass(frozen=True)
class Axis:
    """What a curve runs along: its label, the unit of its ticks and how a round tells its place."""

    noun: str
    label: str
    unit: str  # "rounds", "bytes" or "seconds"
    read: Read


def _virtual_s(record: RoundRecord) -> float | None:
    """Virtual time at a round's end; the initial model's evaluation is at zero."""
    return 0.0 if record.server_round == 0 else record.virtual_s_total


AXES = (
    Axis("rounds", "Round", "rounds", lambda r: float(r.server_round)),
    Axis("uplink bytes", "Uplink so far, all clients", "bytes", lambda r: float(r.uplink_bytes_total)),
    Axis("virtual time", "Virtual time", "seconds", _virtual_s),
    Axis("wall time", "Wall time", "seconds", lambda r: r.wall_s_total),
)


@dataclass(frozen=True)
class Curve:
    """One line: places, values, and the half-width of its band (zeros for none)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float] = ()


def accuracy_of(record: RoundRecord) -> float | None:
    """The global model's accuracy; without a server evaluation, the mean over evaluating clients."""
    return _first(record.accuracy, record.evaluate_metrics, "accuracy", "acc")


def loss_of(record: RoundRecord) -> float | None:
    """The global model's loss; without a server evaluation, the clients' evaluation or training loss."""
    return _first(record.loss, {**record.train_metrics, **record.evaluate_metrics}, "loss", "loss")


def _first(own: float | None, metrics: dict[str, float], *words: str) -> float | None:
    if own is not None:
        return own if math.isfinite(own) else None
    for word in words:
        for name in sorted(metrics):
            if word in name.lower() and math.isfinite(metrics[name]):
                return metrics[name]
    return None


def points(rounds: Sequence[RoundRecord], along: Read, read: Read) -> tuple[list[float], list[float]]:
    """Places and values of the rounds that have both."""
    both = [(along(r), read(r)) for r in rounds]
    kept = [(x, y) for x, y in both if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def curve_figure(
    curves: Sequence[Curve],
    axis: Axis,
    y_label: str,
    *,
    share: bool = False,
    mark_best: bool = False,
    level: float | None = None,
) -> Figure:
    """Lines along one axis. `share` labels y in percent; `level` draws a horizontal mark."""
    drawn = figure()
    axes = quiet(drawn.add_subplot(), axis.label, y_label)
    for number, curve in enumerate(curves):
        _draw(axes, curve, number, dots=len(curves) == 1)
    units_on_x(axes, axis.unit)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if share:
        _percent_axis(axes, curves)
    if level is not None:
        axes.axhline(level, color=MUTED.light, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    if mark_best and len(curves) == 1:
        _mark_best(axes, curves[0])
    axes.margins(x=0.02)
    return drawn


def _draw(axes: Axes, curve: Curve, number: int, dots: bool) -> None:
    colour = SERIES[number % len(SERIES)].light
    axes.plot(
        curve.x,
        curve.y,
        color=colour,
        linewidth=2.0,
        linestyle=dash_of(number),
        clip_on=False,
        marker="o" if (dots and len(curve.x) <= 40) or len(curve.x) == 1 else None,
        markersize=2.8,
        solid_capstyle="round",
        zorder=3,
    )
    if any(curve.band):
        y, band = np.asarray(curve.y), np.asarray(curve.band)
        axes.fill_between(curve.x, y - band, y + band, color=colour, alpha=0.16, linewidth=0, zorder=2)


def _percent_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    highest = max((y for curve in curves for y in curve.y), default=1.0)
    axes.set_ylim(0, min(1.0, highest * 1.12) if highest > 0 else 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if highest > 0.05 else 1))


def _mark_best(axes: Axes, curve: Curve) -> None:
    if not curve.y:
        return
    best = int(np.argmax(curve.y))
    axes.plot(
        [curve.x[best]],
        [curve.y[best]],
        "o",
        markersize=7.5,
        markerfacecolor="none",
        markeredgecolor=SERIES[0].light,
        markeredgewidth=1.4,
        zorder=4,
    )
    late = best > len(curve.x) / 2
    axes.annotate(
        f"best {percent(curve.y[best])}",
        (curve.x[best], curve.y[best]),
        xytext=(4 if late else -4, 8),
        textcoords="offset points",
        ha="right" if late else "left",
        fontsize=8.5,
        color=MUTED.light,
    )


def series_figure(
    rounds: Sequence[RoundRecord], reads: Sequence[Read], y_label: str, unit: str = ""
) -> Figure:
    """Lines over rounds from zero up, in the order of `reads`; `unit` is bytes, seconds or share."""
    drawn = figure(5.4, 2.9)
    axes = quiet(drawn.add_subplot(), "Round", y_label)
    for number, read in enumerate(reads):
        x, y = points(rounds, AXES[0].read, read)
        _draw(axes, Curve("", x, y), number, dots=len(reads) == 1)
    axes.set_ylim(bottom=min(0.0, axes.dataLim.y0), top=axes.dataLim.y1 * 1.12 or None)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if unit:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _FORMATS[unit](value)))
    units_on_x(axes, "rounds")
    return drawn


def faults_figure(rounds: Sequence[RoundRecord]) -> Figure:
    """Bars of errors and, on top, missing replies for each round."""
    trained = [r for r in rounds if r.server_round > 0]
    places = [r.server_round for r in trained]
    errors = np.array([r.errors + r.evaluate_errors for r in trained])
    missing = np.array([r.missing + r.evaluate_missing for r in trained])
    drawn = figure(5.4, 2.9)
    axes = quiet(drawn.add_subplot(), "Round", "Replies")
    axes.bar(places, errors, width=0.8, color=SERIES[1].light, label="errors")
    axes.bar(places, missing, width=0.8, bottom=errors, color=SERIES[4].light, label="missing")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    units_on_x(axes, "rounds")
    return drawn
