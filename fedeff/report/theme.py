"""The look of every figure: one palette that follows the page into dark mode, quiet axes, human units.

Figures are drawn with the light colours. `inline_svg` turns each of these colours into a CSS
variable of the page, so one figure serves light, dark and print. Colours of series are Okabe and
Ito's, which people with any colour vision tell apart; line styles differ too.
"""

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from fedeff.report.units import human_bytes, human_seconds

__all__ = [
    "COLOURS",
    "SERIES",
    "Colour",
    "dash_of",
    "figure",
    "inline_svg",
    "quiet",
    "units_on_x",
    "write_figure",
]


@dataclass(frozen=True)
class Colour:
    """One role: the CSS variable's name, its value on white and its value on near-black."""

    name: str
    light: str
    dark: str


INK = Colour("ink", "#1c2733", "#e8edf3")
MUTED = Colour("muted", "#5f6c7b", "#98a5b5")
GRID = Colour("grid", "#e3e8ee", "#2c3642")
SERIES = (
    Colour("series-1", "#0072b2", "#57b1ea"),
    Colour("series-2", "#d55e00", "#ff8d4d"),
    Colour("series-3", "#009e73", "#35cb9f"),
    Colour("series-4", "#aa4c8e", "#e8a3d0"),
    Colour("series-5", "#b8860b", "#f0bd4a"),
    Colour("series-6", "#4b5563", "#b9c4d2"),
)
COLOURS = (INK, MUTED, GRID, *SERIES)
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (7, 2, 1.5, 2)), (0, (3, 1.5)), (0, (9, 3)))

_CLOCK_STEPS_S = (10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedeff",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}


def dash_of(number: int) -> Any:
    """The line style of a series: the seventh repeats the first's colour but not its dashes."""
    return DASHES[(number + number // len(SERIES)) % len(DASHES)]


def figure(width_in: float = 5.4, height_in: float = 3.2) -> Figure:
    """An empty figure with no background, laid out so that nothing is cut off."""
    drawn = Figure(figsize=(width_in, height_in), layout="constrained")
    drawn.patch.set_alpha(0.0)
    return drawn


def quiet(axes: Axes, x: str, y: str, *, grid: str = "y") -> Axes:
    """Axes with labels, small ticks and only the spine that is needed."""
    axes.set_facecolor("none")
    axes.set_xlabel(x, color=MUTED.light, fontsize=9, labelpad=5)
    axes.set_ylabel(y, color=MUTED.light, fontsize=9, labelpad=5)
    axes.tick_params(colors=MUTED.light, labelsize=8.5, length=0, pad=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID.light)
    if grid:
        axes.grid(axis=grid, color=GRID.light, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    return axes


def units_on_x(axes: Axes, unit: str) -> None:
    """Tick labels on x as `rounds`, `bytes` or `seconds`, few enough to read."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=unit == "rounds", steps=[1, 2, 2.5, 5, 10]))
    span_s = axes.get_xlim()[1]
    if unit == "seconds" and span_s > _CLOCK_STEPS_S[0]:
        axes.xaxis.set_major_locator(MultipleLocator(clock_step_s(span_s)))
    if unit == "bytes":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    elif unit == "seconds":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_seconds(value)))


def clock_step_s(span_s: float) -> float:
    """The distance of ticks on an axis of seconds: at most six, at times a clock shows."""
    return next((step for step in _CLOCK_STEPS_S if span_s / step <= 6), 86400.0 * round(span_s / 432000 + 1))


def write_figure(drawn: Figure, path: str | io.BytesIO, file_format: str, dpi: int = 160) -> None:
    """Write PNG or SVG on white, without anything that differs between two writings."""
    transparent = file_format == "svg"
    with mpl.rc_context(_SETTINGS):
        drawn.savefig(
            path,
            format=file_format,
            dpi=dpi,
            facecolor="none" if transparent else "white",
            metadata={"Date": None} if transparent else {"Software": None},
        )


def inline_svg(drawn: Figure, prefix: str, label: str) -> str:
    """The figure as an `<svg>` element for a page: colours as CSS variables, ids under `prefix`.

    `label` is what a screen reader says; it must hold no markup.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        drawn.savefig(buffer, format="svg", dpi=160, facecolor="none", metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
    text = text.replace("xlink:href=", "href=").replace("'DejaVu Sans'", "inherit")
    text = re.sub(r"font-family: [^;\"]+", "font-family: inherit", text)
    text = re.sub(r"(font: [^'\";]*?)(inherit|sans-serif)[^;\"]*", r"\1var(--font)", text)
    for colour in COLOURS:
        text = re.sub(re.escape(colour.light), f"var(--{colour.name})", text, flags=re.IGNORECASE)
    safe = label.replace("&", "and").replace('"', "'").replace("<", "").replace(">", "")
    opening = f'<svg role="img" aria-label="{safe}"'
    text = re.sub(r'^<svg width="[^"]*" height="[^"]*"', opening, text)
    return text if text.startswith(opening) else re.sub(r"^<svg", opening, text)
