"""Who holds which classes, drawn with characters: classes down, clients across."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["partition_picture"]

_SHADES = " ░▒▓█"  # of a class's share of a client, none to all
_LABEL_WIDTH = 14
_MOST_CLASSES = 40


def partition_picture(counts: NDArray[Any], label_names: tuple[str, ...], title: str, width: int) -> Group:
    """Counts (clients, classes) as a picture at most `width` characters wide, with a line of numbers.

    Clients are ordered by their largest class; where there are more than fit, neighbours share a
    column. Only the forty largest classes are drawn.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    columns = _merged(shares[order], max(10, width - _LABEL_WIDTH - 2))
    drawn = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[:_MOST_CLASSES])
    table = Table.grid(padding=(0, 1))
    for label in drawn:
        name = label_names[label] if label < len(label_names) else f"class {label}"
        table.add_row(Text(name[:_LABEL_WIDTH], style="dim"), _row(columns[:, label]))
    return Group(Text(title, style="bold"), table, Text(_numbers(counts, shares, len(columns)), style="dim"))


def _merged(shares: NDArray[Any], most: int) -> NDArray[Any]:
    """Mean shares of neighbouring clients, at most so many groups of them."""
    groups = np.array_split(shares, min(most, len(shares)))
    return np.array([group.mean(axis=0) for group in groups])


def _row(column_shares: NDArray[Any]) -> Text:
    steps = np.ceil(column_shares * (len(_SHADES) - 1)).astype(int)
    return Text("".join(_SHADES[step] for step in steps), style="cyan", no_wrap=True)


def _numbers(counts: NDArray[Any], shares: NDArray[Any], columns: int) -> str:
    sizes = counts.sum(axis=1)
    # exp(entropy): how many equally frequent classes would be as varied.
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    varied = np.exp(-(shares * logs).sum(axis=1)).mean()
    together = "" if columns == len(counts) else f", {len(counts) / columns:.1f} clients a column"
    return (
        f"{len(counts):,} clients{together}; rows a client {sizes.min():,} to {sizes.max():,}, "
        f"median {np.median(sizes):,.0f}; classes a client {(counts > 0).sum(axis=1).mean():.1f}, "
        f"in effect {varied:.1f}"
    )
