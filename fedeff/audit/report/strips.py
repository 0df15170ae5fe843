"""The picture that people remember: what was trained on above what was rebuilt from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Rows, Samples, Trial
from fedeff.report.theme import GRID, INK, MUTED, SERIES, figure

__all__ = ["Column", "columns_of", "strips_figure"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_MOST_COLUMNS = 8
_FEW = 3  # rows that are drawn larger
_WIDTH_IN, _GAP_IN = 11.0, 0.12
_NUMBER_IN = 0.34  # below each image
_EXACT_DB = 399.0


@dataclass(frozen=True, eq=False)
class Column:
    """One true row from top to bottom; an image is None where it is withheld or was not made."""

    title: str
    original: NDArray | None
    rebuilt: NDArray | None
    floor: NDArray | None
    control: NDArray | None
    rebuilt_db: float | None
    floor_db: float | None
    control_db: float | None
    leaks: bool


def columns_of(trials: Sequence[Trial], rules: Rules) -> list[Column]:
    """At most 8 rows of images: each trial's best one first, then each trial's second, and so on."""
    having = [trial for trial in trials if trial.samples is not None and trial.samples.rebuilt_psnr_db]
    depth = max((len(t.samples.rebuilt_psnr_db) for t in having if t.samples), default=0)
    found = [
        _column(trial, trial.samples, place, rules)
        for place in range(depth)
        for trial in having
        if trial.samples is not None and place < len(trial.samples.rebuilt_psnr_db)
    ]
    return found[:_MOST_COLUMNS]


def _column(trial: Trial, samples: Samples, place: int, rules: Rules) -> Column:
    psnr, floor = samples.rebuilt_psnr_db[place], samples.floor_psnr_db[place]
    control = samples.control_psnr_db[place] if samples.control_psnr_db else None
    return Column(
        title=f"client {trial.partition[0]}"
        if len(trial.partition) == 1
        else f"{len(trial.partition)} summed",
        original=_image(samples.original, place),
        rebuilt=_image(samples.rebuilt, place),
        floor=_image(samples.floor, place),
        control=_image(samples.control, place),
        rebuilt_db=psnr,
        floor_db=floor,
        control_db=control,
        leaks=psnr is not None and psnr >= rules.psnr_db and psnr - floor >= rules.gain_db,
    )


def _image(rows: Rows | None, place: int) -> NDArray | None:
    """Height, width and, of colour images, channels last; None where there is none."""
    if rows is None or rows.kind != "pixels" or len(rows.shape) != 4:
        return None
    row = rows.array[place]
    if not np.isfinite(row).all():
        return None
    return np.asarray(row[0] if len(row) != 3 else np.clip(row.transpose(1, 2, 0), 0.0, 1.0))


def strips_figure(columns: Sequence[Column], withheld: bool) -> Figure:
    """Four bands of images with their PSNR below; what leaked has a frame and its number in colour.

    Of more than three rows bands lie across the page, of fewer they stand beside each other, larger.
    Where samples are `withheld` their places are hatched.
    """
    grid = _Grid(len(columns))
    height_in = grid.height_in
    drawn = figure(_WIDTH_IN, height_in)
    drawn.set_layout_engine("none")
    axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH_IN)
    axes.set_ylim(height_in, 0)  # inches from the top left
    axes.axis("off")
    for band, (title, note) in enumerate(_BANDS):
        left_in, top_in = grid.band_label_in(band)
        axes.text(left_in, top_in, title, color=INK.light, fontsize=11, weight="bold", va="top")
        axes.text(left_in, top_in + 0.24, note, color=MUTED.light, fontsize=8, va="top", linespacing=1.35)
        for sample, column in enumerate(columns):
            _draw(axes, column, title, grid.corner_in(sample, band), grid.cell_in, withheld)
    for sample, column in enumerate(columns):
        axes.text(*grid.sample_label_in(sample), column.title, color=MUTED.light, fontsize=8.5)
    return drawn


_BANDS = (
    ("Original", "what the client\ntrained on"),
    ("Rebuilt", "from what\nit sent"),
    ("Floor", "guessed without\nthe update"),
    ("Control", "rebuilt without\nthe defence"),
)


@dataclass(frozen=True)
class _Grid:
    """Where each image lies, in inches from the top left."""

    samples: int

    @property
    def upright(self) -> bool:
        return self.samples <= _FEW

    @property
    def labels_in(self) -> float:
        return 0.95 if self.upright else 1.5

    @property
    def head_in(self) -> float:
        return 0.75 if self.upright else 0.3

    @property
    def cell_in(self) -> float:
        across = len(_BANDS) if self.upright else self.samples
        return (_WIDTH_IN - self.labels_in) / across - _GAP_IN

    @property
    def height_in(self) -> float:
        down = self.samples if self.upright else len(_BANDS)
        return self.head_in + down * (self.cell_in + _NUMBER_IN)

    def corner_in(self, sample: int, band: int) -> tuple[float, float]:
        across, down = (band, sample) if self.upright else (sample, band)
        left_in = self.labels_in + across * (self.cell_in + _GAP_IN)
        return left_in, self.head_in + down * (self.cell_in + _NUMBER_IN)

    def band_label_in(self, band: int) -> tuple[float, float]:
        left_in, top_in = self.corner_in(0, band)
        return (left_in, 0.05) if self.upright else (0.05, top_in + 0.12)

    def sample_label_in(self, sample: int) -> tuple[float, float]:
        left_in, top_in = self.corner_in(sample, 0)
        return (0.05, top_in + 0.15) if self.upright else (left_in, 0.2)


def _draw(
    axes: Axes, column: Column, band: str, corner_in: tuple[float, float], cell_in: float, withheld: bool
) -> None:
    image, psnr = {
        "Original": (column.original, None),
        "Rebuilt": (column.rebuilt, column.rebuilt_db),
        "Floor": (column.floor, column.floor_db),
        "Control": (column.control, column.control_db),
    }[band]
    left, top = corner_in
    leaks = column.leaks and band == "Rebuilt"
    if image is None:
        _draw_empty(axes, corner_in, cell_in, hatched=withheld and (band == "Original" or psnr is not None))
    else:
        # "none" keeps the pixels as they are: the page enlarges them without blurring.
        axes.imshow(
            image,
            cmap="gray",
            vmin=0.0,
            vmax=1.0,
            interpolation="none",
            extent=(left, left + cell_in, top + cell_in, top),
            aspect="auto",
        )
    frame, width = (SERIES[1].light, 2.4) if leaks else (GRID.light, 0.8)
    axes.add_patch(Rectangle((left, top), cell_in, cell_in, fill=False, ec=frame, lw=width))
    if band != "Original":
        axes.text(
            left + cell_in / 2,
            top + cell_in + 0.07,
            _decibels(psnr),
            color=SERIES[1].light if leaks else MUTED.light,
            fontsize=9,
            weight="bold" if leaks else "normal",
            ha="center",
            va="top",
        )


def _draw_empty(axes: Axes, corner_in: tuple[float, float], cell_in: float, hatched: bool) -> None:
    left, top = corner_in
    hatch = "///" if hatched else None
    axes.add_patch(Rectangle((left, top), cell_in, cell_in, fc="none", ec=GRID.light, lw=0, hatch=hatch))
    said = "withheld" if hatched else "–"
    axes.text(
        left + cell_in / 2, top + cell_in / 2, said, color=MUTED.light, fontsize=8, ha="center", va="center"
    )


def _decibels(psnr: float | None) -> str:
    if psnr is None:
        return "–"
    return "exact" if psnr >= _EXACT_DB else f"{psnr:.0f} dB"
