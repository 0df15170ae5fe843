"""Attacks by defences, naive beside adaptive, with what each defence costs at the side."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedeff.audit.matrix_result import MatrixCell, MatrixResult
from fedeff.report.theme import GRID, INK, MUTED, SERIES, figure, quiet

__all__ = ["heat_map_figure", "worth_of"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_STRONGEST_DB = 40.0  # of gain: from here on a cell is filled
_ROW_IN, _MARGIN_IN = 0.34, 1.75
_LONG_NAME = 9  # characters; a longer one is broken at its first hyphen


def heat_map_figure(matrix: MatrixResult) -> Figure:
    """Defences down; for each attack a naive and an adaptive cell; the accuracy under each defence.

    The stronger a cell, the more is rebuilt than could be guessed. The number is the PSNR in dB, of texts
    the share of exact tokens, of labels alone their F1; a frame is a leak, a dash an attack that does not
    apply.
    """
    rows = len(matrix.defences)
    drawn = figure(11.0, _MARGIN_IN + _ROW_IN * rows)
    axes, bars = drawn.subplots(1, 2, sharey=True, width_ratios=(max(4, 1.1 * len(matrix.attacks)), 2.2))
    quiet(axes, "", "", grid="")
    image = np.zeros((rows, 2 * len(matrix.attacks), 4))
    image[..., :3] = to_rgb(SERIES[1].light)
    for row, defence in enumerate(matrix.defences):
        for column, attack in enumerate(matrix.attacks):
            for adaptive in (False, True):
                cell = matrix.cell(attack, defence.name, adaptive)
                image[row, 2 * column + adaptive, 3] = _strength(cell)
                _write(axes, row, 2 * column + adaptive, cell)
    axes.imshow(image, aspect="auto", interpolation="nearest")
    _label(axes, matrix)
    _draw_accuracy(bars, matrix)
    return drawn


def worth_of(cell: MatrixCell | None) -> str:
    """The cell's number as it is said in the picture; a dash where there is none."""
    if cell is None or cell.obstacle or not cell.trials:
        return "–"
    if cell.psnr_db is not None:
        return f"{cell.psnr_db:.0f}"
    share = cell.labels_f1 if cell.tokens is None else cell.tokens
    return "–" if share is None else f"{100 * share:.0f}%"


def _strength(cell: MatrixCell | None) -> float:
    if cell is None or cell.obstacle:
        return 0.0
    if cell.psnr_db is not None:
        return float(np.clip((cell.gain_db or 0.0) / _STRONGEST_DB, 0.0, 1.0)) * 0.85
    share = cell.labels_f1 if cell.tokens is None else cell.tokens
    return 0.85 * (share or 0.0)


def _write(axes: Axes, row: int, column: int, cell: MatrixCell | None) -> None:
    leaks = cell is not None and cell.leaks > 0
    axes.text(
        column,
        row,
        worth_of(cell),
        ha="center",
        va="center",
        fontsize=8,
        color=INK.light if leaks or _strength(cell) > 0.3 else MUTED.light,
        weight="bold" if leaks else "normal",
    )
    if leaks:
        axes.add_patch(
            Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, fill=False, ec=SERIES[1].light, lw=1.3)
        )


def _label(axes: Axes, matrix: MatrixResult) -> None:
    axes.set_yticks(range(len(matrix.defences)), [defence.name for defence in matrix.defences])
    kinds = ["naive", "adaptive"] * len(matrix.attacks)
    axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5)
    above = axes.secondary_xaxis("top")
    above.set_xticks(
        [2 * place + 0.5 for place in range(len(matrix.attacks))],
        [name.replace("-", "\n", 1) if len(name) > _LONG_NAME else name for name in matrix.attacks],
        fontsize=8.5,
    )
    above.tick_params(length=0, colors=INK.light)
    above.spines["top"].set_visible(False)
    for place in range(1, len(matrix.attacks)):
        axes.axvline(2 * place - 0.5, color=GRID.light, linewidth=1.0)
    axes.set_xlim(-0.5, 2 * len(matrix.attacks) - 0.5)


def _draw_accuracy(axes: Axes, matrix: MatrixResult) -> None:
    quiet(axes, "Accuracy of the model", "", grid="")
    for row, defence in enumerate(matrix.defences):
        if defence.accuracy is not None:
            axes.barh(row, defence.accuracy, height=0.62, color=SERIES[0].light, alpha=0.85)
        said = "not measured" if defence.accuracy is None else f"{100 * defence.accuracy:.1f}%"
        axes.annotate(
            said,
            (defence.accuracy or 0.0, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED.light,
        )
    axes.set_xlim(0, 1.35)
    axes.set_xticks([])
    axes.tick_params(labelleft=False)
