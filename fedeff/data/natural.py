"""The clients that the data came with: one a writer, a speaker, a role."""

import numpy as np

from fedeff.core.errors import ConfigError
from fedeff.data.dataset import Indices
from fedeff.data.partition import Partition

__all__ = ["by_group", "natural"]


def natural(groups: Indices, clients: int) -> Partition:
    """Client i is the group with the i-th most rows (of equals, the lower number first).

    `groups` (rows,) names the group of each row. Fewer clients than groups take the largest and
    leave the other rows unused; a client is the same group however many clients there are.

    Raises:
        ConfigError: there are fewer groups than clients.
    """
    names, counts = np.unique(groups, return_counts=True)
    if clients > len(names):
        raise ConfigError(
            f"{clients} clients but {len(names)} natural groups; use at most {len(names)} clients"
        )
    return by_group(groups, names[np.argsort(-counts, kind="stable")[:clients]])


def by_group(groups: Indices, chosen: Indices) -> Partition:
    """Client i holds the rows of group `chosen[i]`, in their order; a group may have none."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups, chosen, side="left", sorter=order)
    sizes = np.searchsorted(groups, chosen, side="right", sorter=order) - starts
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
    return Partition(order[places], offsets, np.array(chosen, np.int64))
