"""Basis vectors of a missing update, their Gram matrices layer by layer, and sums of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedeff.strategies.missing.flat import Layers, Vector

__all__ = ["BASIS", "DRIFT_CORRECTED", "STALE", "combined", "grams"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]

BASIS = ("mean now", "stale", "mean then", "way since then")
STALE = 1  # the place of the client's own last update
DRIFT_CORRECTED = np.array([1.0, 1.0, -1.0, 0.0])  # the last update, and how the others have moved on since

_CHUNK = 65_536  # entries of each vector that are in float64 at a time


def grams(vectors: Sequence[Vector], layers: Layers) -> NDArray:
    """The inner products of all vectors within each layer, (layers, vectors, vectors), summed in float64."""
    found = np.zeros((len(layers.slices), len(vectors), len(vectors)))
    for gram, layer in zip(found, layers.slices, strict=True):
        for start in range(layer.start, layer.stop, _CHUNK):
            piece = slice(start, min(start + _CHUNK, layer.stop))
            block = np.stack([vector[piece] for vector in vectors]).astype(np.float64)
            gram += block @ block.T
    return found


def combined(coefficients: NDArray, vectors: Sequence[Vector], layers: Layers) -> Vector:
    """The sum of the vectors times their coefficients, which are (layers, vectors)."""
    made = np.zeros(layers.size, np.float32)
    for row, layer in zip(coefficients, layers.slices, strict=True):
        for coefficient, vector in zip(row, vectors, strict=True):
            if coefficient == 0:
                continue
            made[layer] += np.float32(coefficient) * vector[layer]
    return made
