"""Label skew: each client holds rows of few classes."""

import numpy as np
from numpy.random import Generator

from fedeff.core.errors import ConfigError
from fedeff.data.dataset import Indices
from fedeff.data.partition import Partition, even_sizes, from_owners

__all__ = ["shards"]


def shards(labels: Indices, clients: int, classes_per_client: int, rng: Generator) -> Partition:
    """Rows cut into shards of one class, `classes_per_client` shards to each client.

    After McMahan et al. (arXiv:1602.05629), but no shard holds two classes, so the bound on a
    client's classes is strict; a client may draw one class twice. A class is cut into a number of
    shards proportional to its rows, evenly; every row is used once.

    Raises:
        ConfigError: the clients together have room for fewer shards than there are classes.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    places = clients * classes_per_client
    if places < len(counts):
        raise ConfigError(
            f"{clients} clients of {classes_per_client} classes cannot hold {len(counts)} classes; "
            f"use at least shards:{-(-len(counts) // clients)} or more clients"
        )
    shards_of = _apportion(counts, min(places, len(labels)))
    shard_sizes = np.concatenate([even_sizes(*pair) for pair in zip(counts, shards_of, strict=True)])
    shuffled = rng.permutation(len(labels))
    rows = shuffled[np.argsort(numbers[shuffled], kind="stable")]
    owner_of_shard = _deal(len(shard_sizes), clients, places, rng)
    return from_owners(rows, np.repeat(owner_of_shard, shard_sizes), clients)


def _apportion(counts: Indices, total: int) -> Indices:
    """Shards of each class: at least 1, at most its rows, near its share of `total`, which they sum to."""
    quota = total * counts / counts.sum()
    parts: Indices = np.maximum(np.floor(quota).astype(np.int64), 1)
    while parts.sum() < total:
        parts[np.argmax(quota - parts)] += 1  # below its quota, which is at most its rows
    while parts.sum() > total:
        parts[np.argmax(np.where(parts > 1, parts - quota, -np.inf))] -= 1
    return parts


def _deal(shard_count: int, clients: int, places: int, rng: Generator) -> Indices:
    """The client of each shard: one to everyone first, the rest to places drawn without replacement."""
    first = rng.permutation(clients)
    rest = rng.permutation(np.arange(places - clients) % clients)
    owners: Indices = rng.permutation(np.concatenate([first, rest])[:shard_count])
    return owners
