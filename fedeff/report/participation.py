"""Who took part: how often each client was heard, and when."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedeff.core.records import RoundRecord
from fedeff.report.theme import MUTED, SERIES, figure, quiet, units_on_x

__all__ = ["Participation", "estimated_of", "histogram_figure", "participation_of", "strip_figure"]

_STRIP_COLUMNS = 250
_STRIP_ROWS = 120

Array = np.ndarray[Any, np.dtype[Any]]
Participation = Array  # (rounds, clients) of booleans


def participation_of(rounds: Sequence[RoundRecord], clients: int) -> Participation:
    """Whether each client arrived in each training round, shape (rounds, clients).

    Ids that are no partition number below `clients` (node ids of a foreign app) become columns in
    ascending order; clients never heard come last.
    """
    trained = [r for r in rounds if r.server_round > 0]
    ids = np.unique(np.array([p for r in trained for p in r.participants], dtype=object))
    are_partitions = bool(clients) and all(0 <= p < clients for p in ids)
    column = {p: p if are_partitions else place for place, p in enumerate(ids)}
    took_part = np.zeros((len(trained), max(clients, len(ids))), dtype=bool)
    for row, record in enumerate(trained):
        took_part[row, [column[p] for p in record.participants]] = True
    return took_part


def estimated_of(rounds: Sequence[RoundRecord], clients: int) -> Participation:
    """Whether each client's update was estimated in each training round, shape (rounds, clients).

    Ids that are no partition number below `clients` are left out.
    """
    trained = [r for r in rounds if r.server_round > 0]
    estimated = np.zeros((len(trained), clients), dtype=bool)
    for row, record in enumerate(trained):
        estimated[row, [one for one in record.estimated if 0 <= one < clients]] = True
    return estimated


def histogram_figure(took_part: Participation) -> Figure:
    """How many clients were heard 0, 1, 2, ... times."""
    times = took_part.sum(axis=0)
    drawn = figure(5.4, 2.9)
    axes = quiet(drawn.add_subplot(), "Rounds in which a client was heard", "Clients")
    width = max(1, int(np.ceil((times.max(initial=0) + 1) / 40)))
    edges = np.arange(0, times.max(initial=0) + width + 1, width) - 0.5
    axes.hist(times, bins=edges.tolist(), color=SERIES[0].light, rwidth=0.86)
    axes.margins(y=0.14)
    mean = float(times.mean()) if times.size else 0.0
    axes.axvline(mean, color=MUTED.light, linewidth=1.0, linestyle=(0, (3, 2)))
    axes.annotate(
        f"mean {mean:.1f}",
        (mean, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -9),
        textcoords="offset points",
        fontsize=8.5,
        color=MUTED.light,
    )
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    units_on_x(axes, "rounds")
    return drawn


def strip_figure(
    took_part: Participation, first_round: int = 1, estimated: Participation | None = None
) -> Figure:
    """Rounds down, clients across; stronger where more of the clients in a cell were heard.

    Where some were `estimated`, of the same shape, that is shown in a second colour. More than 250 clients
    or 120 rounds share cells, so that ten thousand stay readable.
    """
    rounds, clients = took_part.shape
    drawn = figure(5.4, 2.9)
    axes = quiet(drawn.add_subplot(), "Client", "Round", grid="")
    for shown, colour in ((took_part, SERIES[0].light), (estimated, SERIES[1].light)):
        if shown is None:
            continue
        cells = mean_blocks(mean_blocks(shown.astype(float), _STRIP_COLUMNS).T, _STRIP_ROWS).T
        axes.imshow(
            tinted(cells / max(cells.max(initial=0.0), 1e-12), colour),
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, clients - 0.5, first_round + rounds - 0.5, first_round - 0.5),
        )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return drawn


def mean_blocks(values: Array, columns: int) -> Array:
    """Columns averaged into at most `columns` runs of neighbours of nearly equal length."""
    if values.shape[1] <= columns:
        return values
    starts = np.arange(columns) * values.shape[1] // columns
    lengths = np.diff(np.append(starts, values.shape[1]))
    return np.asarray(np.add.reduceat(values, starts, axis=1) / lengths)


def tinted(strength: Array, colour: str = SERIES[0].light) -> Array:
    """An RGBA image of one hue whose opacity is the strength in [0, 1]: it suits any background."""
    image = np.empty((*strength.shape, 4))
    image[..., :3] = to_rgb(colour)
    image[..., 3] = np.sqrt(np.clip(strength, 0.0, 1.0))
    return image
