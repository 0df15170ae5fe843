"""Which rows each client holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedeff.core.errors import DataError
from fedeff.data.dataset import Indices

__all__ = ["Partition", "even_sizes", "from_owners"]


@dataclass(frozen=True, eq=False)
class Partition:
    """Rows of a dataset dealt to clients: client `i` holds `partition[i]`, int64 row numbers.

    All clients share one flat array, so 10,000 of them cost no more than their rows.
    """

    rows: Indices  # (n,), client after client
    offsets: Indices  # (clients + 1,): client i holds rows[offsets[i]:offsets[i + 1]]
    groups: Indices | None = None  # the natural group that each client is, where it is one

    def __post_init__(self) -> None:
        ends = self.offsets
        if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(self.rows) or (np.diff(ends) < 0).any():
            raise DataError(
                f"offsets of a partition must rise from 0 to {len(self.rows)}, one more than clients"
            )
        if self.groups is not None and len(self.groups) != len(self):
            raise DataError(f"{len(self.groups)} groups for {len(self)} clients; expected one each")
        for name in ("rows", "offsets"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> Indices:
        """The rows of one client, int64 (size,), a read-only view."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}; clients are numbered from 0")
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    def __iter__(self) -> Iterator[Indices]:
        """The rows of each client in turn."""
        return (self.rows[start:end] for start, end in pairwise(self.offsets))

    @property
    def sizes(self) -> Indices:
        """How many rows each client holds, (clients,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Indices:
        """The client of each entry of `rows`, (n,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def class_counts(self, labels: Indices, classes: int) -> Indices:
        """How many rows of each class each client holds, (clients, classes).

        `labels` (rows of the dataset,) are integers in [0, classes).

        Raises:
            DataError: a label is out of range, or there are fewer labels than rows.
        """
        if len(self.rows) and self.rows.max() >= len(labels):
            raise DataError(
                f"row {self.rows.max()} has no label among {len(labels)}; give the labels of all rows"
            )
        held = labels[self.rows]
        if len(held) and not (held.min() >= 0 and held.max() < classes):
            raise DataError(f"labels reach from {held.min()} to {held.max()}; expected 0 to {classes - 1}")
        return np.bincount(self.owners * classes + held, minlength=len(self) * classes).reshape(-1, classes)


def even_sizes(rows: int, clients: int) -> Indices:
    """Sizes that sum to `rows` and differ by at most one, (clients,); the first are the larger."""
    return rows // clients + (np.arange(clients) < rows % clients)


def from_owners(rows: Indices, owners: Indices, clients: int, groups: Indices | None = None) -> Partition:
    """The partition in which `owners[i]` holds `rows[i]`; each client keeps the given order."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=clients))])
    return Partition(rows[np.argsort(owners, kind="stable")], offsets, groups)
