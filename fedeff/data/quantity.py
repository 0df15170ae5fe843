"""Quantity skew: clients alike in what they hold, unlike in how much."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedeff.data.dataset import Indices
from fedeff.data.partition import Partition

__all__ = ["quantity"]


def quantity(rows: int, clients: int, skew: float, rng: Generator, *, least: int = 1) -> Partition:
    """Rows dealt at random, to sizes in proportion to `exp(skew * normal)`, each at least `least`.

    `skew` is the standard deviation of the logarithm of a size: 0 gives equal sizes, at 1 the
    middle two thirds of clients span a factor of seven, at 2 of fifty. Every row is used once.
    """
    scores = skew * rng.standard_normal(clients)
    weights = np.exp(scores - scores.max())
    sizes = least + _round_to_sum(weights / weights.sum() * (rows - least * clients))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Partition(rng.permutation(rows), offsets)


def _round_to_sum(shares: NDArray[np.float64]) -> Indices:
    """Whole numbers with the same sum, each within one of its share: the largest remainders go up."""
    down = np.floor(shares).astype(np.int64)
    missing = round(float(shares.sum())) - int(down.sum())
    up = np.argsort(down - shares, kind="stable")[:missing]
    down[up] += 1
    return down
