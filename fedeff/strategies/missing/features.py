"""What a decoder is told of a missing update: angles, lengths and ages, whatever the size of the model."""

from typing import Any

import numpy as np

from fedeff.strategies.missing.basis import STALE

__all__ = ["feature_count", "features_of"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]

_TINY = 1e-30  # of a squared norm: that of an array that does not move
_LARGEST = 4.0  # of a ratio, and of a logarithm of one


def feature_count(layers: int, vectors: int) -> int:
    """How many features a layer has."""
    return vectors * (vectors - 1) // 2 + 2 * (vectors - 1) + 1 + layers


def features_of(gram: NDArray, staleness: int) -> NDArray:
    """The features of each layer, (layers, features), from the basis's Gram matrices (layers, v, v).

    Cosines of all pairs, logarithms of norms over the first vector's, how far each other vector goes along
    the stale update in multiples of it, the logarithm of the staleness in rounds, and which layer it is.
    None leaves [-4, 4]. How far the model has come along an update since tells what is left of it.
    """
    layers, vectors = gram.shape[:2]
    squares = np.maximum(np.einsum("lvv->lv", gram), _TINY)
    norms = np.sqrt(squares)
    first, second = np.triu_indices(vectors, 1)
    cosines = gram[:, first, second] / (norms[:, first] * norms[:, second])
    ratios = np.clip(np.log(norms[:, 1:] / norms[:, :1]), -_LARGEST, _LARGEST)
    along = np.delete(gram[:, STALE] / squares[:, STALE, None], STALE, axis=1)
    along = np.clip(along, -_LARGEST, _LARGEST)
    age = np.full((layers, 1), np.log1p(staleness) / 2)
    return np.concatenate([cosines, ratios, along, age, np.eye(layers)], axis=1)
