"""Kept entries read and written by a mask, a chunk at a time: faster than at once, and in little memory."""

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.compression.floats import chunks

__all__ = ["read_kept", "write_kept"]


def read_kept(flat: NDArray, mask: NDArray) -> NDArray:
    """`flat[mask]`, a fresh array."""
    parts = [flat[part].take(np.flatnonzero(mask[part])) for part in chunks(flat.size)]
    return np.concatenate(parts) if parts else flat.copy()


def write_kept(flat: NDArray, kept: NDArray, values: NDArray) -> None:
    """`flat[kept] = values`, `kept` being a mask or positions; as many as there are values."""
    if kept.dtype != np.bool_:
        flat[kept] = values
        return
    start = 0
    for part in chunks(flat.size):
        positions = np.flatnonzero(kept[part])
        flat[part][positions] = values[start : start + positions.size]
        start += positions.size
