"""A dataset as arrays: rows to train on, rows to test on, and what clients may be cut along."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedeff.core.errors import DataError

__all__ = ["Dataset", "Indices", "Split", "Task"]

Indices = NDArray[np.int64]
Task = Literal["classify", "next-character"]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one dataset: `x` (n, ...) and `y` (n,) or (n, L), read-only and often memory-mapped.

    Pixels are kept as stored (uint8, say) and scaled only when a batch is asked for, so that many
    worker processes share the same pages. A signed integer `x` holds tokens and is never scaled.
    Load a dataset by name in each worker: pickling one ships its pixels.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    full_scale: float = 1.0  # the stored value that becomes 1.0 in a batch: 255 for 8-bit pixels

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"{len(self.x)} inputs but {len(self.y)} targets; expected one target an input")
        if not self.full_scale > 0:
            raise DataError(f"full_scale is {self.full_scale}; expected a positive number, such as 255")

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.y)

    def batch(self, rows: Indices | slice = slice(None)) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The given rows, copied: x float32 in [0, 1] (or int64 tokens) and y int64."""
        x, y = self.x[rows], self.y[rows].astype(np.int64)
        if x.dtype.kind == "i":
            return x.astype(np.int64), y
        return np.divide(x, np.float32(self.full_scale), dtype=np.float32), y


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named dataset: train and test rows and, where nature gives them, the clients.

    `input_shape` is the shape of one row of `x`. For "next-character", x and y are (n, L) int64,
    y the character that follows each one of x, `classes` the size of `vocabulary`.

    >>> rows = Split(np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 0, 1]), full_scale=255)
    >>> Dataset("mine", train=rows, test=rows, classes=2, input_shape=(1, 2, 2)).labels
    array([0, 1, 0, 1])
    """

    name: str
    train: Split
    test: Split
    classes: int
    input_shape: tuple[int, ...]
    groups: Indices | None = None  # natural client of each train row
    test_groups: Indices | None = None  # and of each test row
    task: Task = "classify"
    vocabulary: str = ""
    strata: Indices | None = None  # a label of each train row where `y` is not one number a row
    test_strata: Indices | None = None
    label_names: tuple[str, ...] = field(default=(), repr=False)
    group_names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            if split.x.shape[1:] != self.input_shape:
                raise DataError(
                    f"{part} rows are {split.x.shape[1:]}, expected {self.input_shape} in {self.name}"
                )
        for kind, values, rows in (
            ("groups", self.groups, self.train),
            ("test_groups", self.test_groups, self.test),
            ("strata", self.strata, self.train),
            ("test_strata", self.test_strata, self.test),
        ):
            if values is not None and values.shape != (len(rows),):
                raise DataError(
                    f"{kind} of {self.name} is {values.shape}, expected one number for {len(rows)} rows"
                )

    @property
    def labels(self) -> Indices:
        """One label of each train row, int64 (n,), for label-skewed partitions.

        The class of a row; for Shakespeare the play that a row comes from.
        """
        return self._labels(self.train, self.strata)

    @property
    def test_labels(self) -> Indices:
        """One label of each test row, int64 (n,), numbered as `labels`."""
        return self._labels(self.test, self.test_strata)

    def _labels(self, rows: Split, strata: Indices | None) -> Indices:
        if strata is not None:
            return strata
        if rows.y.ndim != 1:
            raise DataError(
                f"rows of {self.name} have no single label; give `strata`, or split iid or quantity"
            )
        return rows.y.astype(np.int64, copy=False)
