"""How leaking changes with noise, and which layer gives how much away."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fedeff.audit.judging.rules import Rules
from fedeff.audit.result import LayerLeak, NoisePoint
from fedeff.report.theme import GRID, INK, MUTED, SERIES, dash_of, figure, quiet

__all__ = ["layers_figure", "noise_figure"]

_ROW_IN, _MARGIN_IN = 0.3, 0.95
_LEAK_DASHES, _FLOOR_DASHES = (0, (1, 1.5)), (0, (4, 2))


def noise_figure(points: Sequence[NoisePoint], rules: Rules, floor_db: float | None) -> Figure:
    """PSNR against the noise's standard deviation: the attack, and what no attack does better than.

    Series 0 is the attack, 1 the bound for attackers without a prior, 2 for those with one; a dotted line
    is where a leak begins, a dashed one the floor. What is far below both is left out.
    """
    drawn = figure(5.4, 3.4)
    axes = quiet(
        drawn.add_subplot(), "Standard deviation of the noise on each value of the update", "PSNR, dB"
    )
    ordered = sorted((point for point in points if point.std > 0), key=lambda point: point.std)
    for number, read in enumerate((_attack, _unbiased, _prior)):
        kept = [(point.std, value) for point in ordered if (value := read(point)) is not None]
        axes.plot(
            [std for std, _ in kept],
            [value for _, value in kept],
            color=SERIES[number].light,
            linestyle=dash_of(number),
            linewidth=2.0,
            marker="o" if number == 0 else None,
            markersize=4,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    _level(axes, rules.psnr_db, "leak", _LEAK_DASHES)
    if floor_db is not None:
        _level(axes, floor_db, "floor", _FLOOR_DASHES)
    shown = [value for point in ordered for value in (_attack(point), _prior(point)) if value is not None]
    axes.set_ylim(bottom=min([*shown, rules.psnr_db, *([] if floor_db is None else [floor_db])]) - 3)
    return drawn


def _attack(point: NoisePoint) -> float | None:
    return point.psnr_db


def _unbiased(point: NoisePoint) -> float | None:
    return point.unbiased_db


def _prior(point: NoisePoint) -> float | None:
    return point.prior_db


def _level(axes: Axes, at_db: float, word: str, dashes: tuple[int, tuple[float, ...]]) -> None:
    """A level across the picture, named at its left, where curves that fall are far above it."""
    axes.axhline(at_db, color=MUTED.light, linewidth=0.9, linestyle=dashes, zorder=1)
    axes.annotate(
        f"{word} {at_db:.0f} dB",
        (0.0, at_db),
        xycoords=("axes fraction", "data"),
        xytext=(3, 3),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=MUTED.light,
    )


def layers_figure(layers: Sequence[LayerLeak], rules: Rules) -> Figure:
    """A bar a layer: the PSNR that it alone allows; in the colour of leaks where it is one.

    A dotted line is where a leak begins, a dashed one the floor: a shorter bar is worse than a guess.
    """
    drawn = figure(11.0, _MARGIN_IN + _ROW_IN * len(layers))
    axes = quiet(drawn.add_subplot(), "PSNR of what this layer alone gives away, dB", "", grid="x")
    for place, layer in enumerate(layers):
        _bar(axes, place, layer, rules)
    floors = [
        one.psnr_db - one.gain_db for one in layers if one.psnr_db is not None and one.gain_db is not None
    ]
    _mark(axes, rules.psnr_db, "leak", _LEAK_DASHES, "left")
    if floors:
        _mark(axes, floors[0], "floor", _FLOOR_DASHES, "right")
    axes.set_yticks(range(len(layers)), [f"{layer.layer}  ({layer.entries:,})" for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    longest = max((layer.psnr_db or 0.0 for layer in layers), default=0.0)
    axes.set_xlim(0, max(1.22 * longest, 2.5 * rules.psnr_db))
    axes.spines["bottom"].set_color(GRID.light)
    return drawn


def _bar(axes: Axes, place: int, layer: LayerLeak, rules: Rules) -> None:
    """A layer's bar and, right of it and of the lines, what it says."""
    psnr, gain = layer.psnr_db, layer.gain_db
    leaks = psnr is not None and psnr >= rules.psnr_db and (gain is None or gain >= rules.gain_db)
    if psnr is not None:
        axes.barh(place, psnr, height=0.62, color=SERIES[1 if leaks else 0].light, alpha=0.9)
    axes.annotate(
        _said(layer),
        (max(psnr or 0.0, rules.psnr_db), place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK.light if leaks else MUTED.light,
    )


def _mark(axes: Axes, at_db: float, word: str, dashes: tuple[int, tuple[float, ...]], side: str) -> None:
    """A line from top to bottom, named above the bars, with the name on its left or right."""
    axes.axvline(at_db, color=MUTED.light, linewidth=0.9, linestyle=dashes)
    axes.annotate(
        f"{word} {at_db:.0f} dB",
        (at_db, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-2 if side == "right" else 2, 3),
        textcoords="offset points",
        ha=side,
        fontsize=8,
        color=MUTED.light,
    )


def _said(layer: LayerLeak) -> str:
    image = "no image" if layer.psnr_db is None else f"{layer.psnr_db:.0f} dB"
    labels = "" if layer.labels_f1 is None else f", labels {100 * layer.labels_f1:.0f}%"
    return image + labels
