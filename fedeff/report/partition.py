"""The partition picture: which client holds how much of which class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedeff.core.errors import DataError
from fedeff.report.participation import mean_blocks, tinted
from fedeff.report.theme import INK, SERIES, figure, quiet

__all__ = ["partition_figure", "sorted_clients"]

_COLUMNS = 1000
_NAMED_CLASSES = 12

Array = np.ndarray[Any, np.dtype[Any]]


def partition_figure(
    class_counts: Array,
    class_names: Sequence[str] | None = None,
    title: str = "",
    *,
    width_in: float = 11.0,
    height_in: float = 3.9,
) -> Figure:
    """Clients across, classes down; the stronger a cell, the larger the class's share of the client.

    `class_counts` has shape (clients, classes). Clients are sorted by their largest class, then by
    its share, which makes any skew visible at a glance; above 1,000 clients neighbours share a
    column. On top the number of samples of each client, in the same order.

    Raises:
        DataError: `class_counts` is not a table of non-negative counts.
    """
    counts = np.asarray(class_counts, dtype=float)
    if counts.ndim != 2 or 0 in counts.shape or not np.all(np.isfinite(counts)) or counts.min() < 0:
        raise DataError(
            f"class counts of shape {counts.shape} cannot be drawn; expected non-negative (clients, classes)"
        )
    counts = counts[sorted_clients(counts)]
    clients, classes = counts.shape
    drawn = figure(width_in, height_in)
    if title:
        drawn.suptitle(title, fontsize=11, x=0.02, ha="left", color=INK.light)
    sizes_axes, axes = drawn.subplots(2, 1, sharex=True, height_ratios=(1, 3.2))
    _draw_sizes(sizes_axes, counts.sum(axis=1))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    quiet(axes, _clients_label(clients), "Class", grid="")
    axes.imshow(
        tinted(mean_blocks(shares.T, _COLUMNS)),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, clients - 0.5, classes - 0.5, -0.5),
    )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _label_classes(axes, classes, class_names)
    return drawn


def sorted_clients(counts: Array) -> Array:
    """Client indices by largest class, within it by falling share, then by size and index."""
    sizes = counts.sum(axis=1)
    largest = counts.argmax(axis=1)
    share = counts.max(axis=1) / np.maximum(sizes, 1.0)
    return np.lexsort((-sizes, -share, largest))


def _draw_sizes(axes: Axes, sizes: Array) -> None:
    quiet(axes, "", "Samples")
    lines = mean_blocks(sizes[None, :], _COLUMNS)[0]
    places = np.linspace(-0.5, len(sizes) - 0.5, len(lines) + 1)
    axes.stairs(lines, places, fill=True, color=SERIES[0].light, alpha=0.85, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.tick_params(labelbottom=False)


def _label_classes(axes: Axes, classes: int, names: Sequence[str] | None) -> None:
    if classes <= _NAMED_CLASSES:
        axes.set_yticks(range(classes))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if names is not None:
        labels = list(names)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda at, _: labels[round(at)] if 0 <= round(at) < len(labels) else "")
        )


def _clients_label(clients: int) -> str:
    shared = f", {clients / _COLUMNS:.3g} to a column" if clients > _COLUMNS else ""
    return f"Clients, sorted by their largest class{shared}"
