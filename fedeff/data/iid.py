"""Clients that are alike: rows dealt at random, equally many to each."""

import numpy as np
from numpy.random import Generator

from fedeff.data.partition import Partition, even_sizes

__all__ = ["iid"]


def iid(rows: int, clients: int, rng: Generator) -> Partition:
    """Every row to one client at random; sizes differ by at most one, the first clients' being larger."""
    offsets = np.concatenate([[0], np.cumsum(even_sizes(rows, clients))])
    return Partition(rng.permutation(rows), offsets)
