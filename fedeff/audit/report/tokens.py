"""Texts beside what was rebuilt of them, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedeff.audit.judging.trial import Rows, Trial
from fedeff.report.theme import GRID, INK, MUTED, SERIES, figure

__all__ = ["Line", "lines_of", "tokens_figure"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_MOST_LINES = 6
_CELL_IN, _LINE_IN = 0.25, 0.25
_WIDTH_IN, _LABELS_IN = 11.0, 0.9


@dataclass(frozen=True, eq=False)
class Line:
    """A true sequence and the rebuilt one, int (length,)."""

    title: str
    original: NDArray
    rebuilt: NDArray


def lines_of(trials: Sequence[Trial]) -> list[Line]:
    """At most 6 sequences that may be shown, each trial's best first."""
    found: list[tuple[int, Line]] = []
    for trial in trials:
        samples = trial.samples
        if samples is not None and _tokens(samples.original) and _tokens(samples.rebuilt):
            pairs = zip(samples.original.array, samples.rebuilt.array, strict=True)  # type: ignore[union-attr]
            found += [
                (place, Line(f"client {trial.partition[0]}", original, rebuilt))
                for place, (original, rebuilt) in enumerate(pairs)
            ]
    return [line for _, line in sorted(found, key=lambda one: one[0])[:_MOST_LINES]]


def _tokens(rows: Rows | None) -> bool:
    return rows is not None and rows.kind == "tokens"


def tokens_figure(lines: Sequence[Line], vocabulary: str = "") -> Figure:
    """Each sequence above what was rebuilt of it; an exact token is filled, a wrong one struck out.

    With a `vocabulary` tokens are its characters, without they are their numbers. Sequences are broken
    at the width of the page.
    """
    across = int((_WIDTH_IN - _LABELS_IN) / _CELL_IN)
    pieces = [piece for line in lines for piece in _broken(line, across)]
    height_in = len(pieces) * 3 * _LINE_IN + 0.1
    drawn = figure(_WIDTH_IN, height_in)
    drawn.set_layout_engine("none")
    axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH_IN)
    axes.set_ylim(height_in, 0)
    axes.axis("off")
    for number, piece in enumerate(pieces):
        _draw(axes, piece, 0.05 + number * 3 * _LINE_IN, vocabulary)
    return drawn


def _broken(line: Line, across: int) -> list[Line]:
    starts = range(0, len(line.original), across)
    return [
        Line(line.title if s == 0 else "", line.original[s : s + across], line.rebuilt[s : s + across])
        for s in starts
    ]


def _draw(axes: Axes, line: Line, top_in: float, vocabulary: str) -> None:
    axes.text(0.05, top_in + 0.04, line.title, color=MUTED.light, fontsize=8.5, va="top")
    for place, (true, found) in enumerate(zip(line.original.tolist(), line.rebuilt.tolist(), strict=True)):
        left_in = _LABELS_IN + place * _CELL_IN
        exact = true == found
        _cell(axes, left_in, top_in, _said(true, vocabulary), INK.light, None)
        colour = SERIES[1].light
        said = _said(found, vocabulary)
        _cell(
            axes,
            left_in,
            top_in + _LINE_IN,
            said,
            colour if exact else MUTED.light,
            colour if exact else None,
        )
        if not exact and said:
            middle = top_in + 1.5 * _LINE_IN
            axes.plot([left_in + 0.05, left_in + _CELL_IN - 0.05], [middle] * 2, color=MUTED.light, lw=0.8)


def _cell(axes: Axes, left_in: float, top_in: float, said: str, ink: str, fill: str | None) -> None:
    axes.add_patch(
        Rectangle(
            (left_in, top_in),
            _CELL_IN,
            _LINE_IN,
            fc=fill or "none",
            alpha=0.18 if fill else None,
            lw=0,
        )
    )
    axes.add_patch(Rectangle((left_in, top_in), _CELL_IN, _LINE_IN, fill=False, ec=GRID.light, lw=0.5))
    size = 9.5 if len(said) < 3 else 6.5
    axes.text(
        left_in + _CELL_IN / 2,
        top_in + _LINE_IN / 2,
        said,
        color=ink,
        fontsize=size,
        ha="center",
        va="center",
        parse_math=False,
    )


def _said(token: int, vocabulary: str) -> str:
    """A token as people read it; one left open is blank, a space a low dot."""
    if token < 0:
        return ""
    if token >= len(vocabulary):
        return str(token)
    return {" ": "·", "\n": "↵", "\t": "→"}.get(vocabulary[token], vocabulary[token])
