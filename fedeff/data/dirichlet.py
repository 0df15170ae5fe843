"""Label skew: each client has a class mix of its own, drawn from a Dirichlet distribution."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedeff.data.dataset import Indices
from fedeff.data.partition import Partition, even_sizes, from_owners

__all__ = ["deal_by_mix", "dirichlet"]

FLOOR = 1e-12  # of a class's share, so that a client whose classes are used up can take others


def dirichlet(labels: Indices, clients: int, alpha: float, rng: Generator) -> Partition:
    """Equally large clients whose class mix is drawn from a Dirichlet (Hsu et al., arXiv:1909.06335).

    The concentration of class k is `alpha * classes * share of k`, hence `alpha` for each class
    where classes are balanced: 0.1 leaves a client one or two classes, 100 is close to IID. Every
    row is used once; sizes differ by at most one, so the last rows of a used-up class go where
    the mixes did not ask for them, spread over all clients alike.
    """
    values, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    concentration = alpha * len(values) * counts / len(labels)
    mix = rng.dirichlet(concentration, size=clients)
    return deal_by_mix(numbers, mix, even_sizes(len(labels), clients), rng)


def deal_by_mix(labels: Indices, mix: NDArray[np.float64], sizes: Indices, rng: Generator) -> Partition:
    """Deal rows so that client i gets `sizes[i]` of them, their classes drawn from `mix[i]`.

    `labels` (rows,) in [0, classes), `mix` (clients, classes) non-negative, `sum(sizes) <= rows`.
    Every place asks for a class; where a class is asked for more often than it has rows, the
    lucky ones are drawn and the others ask again among the classes left. Each pass serves
    everyone or uses up a class, so there are at most as many passes as classes.
    """
    clients, classes = mix.shape
    pool = rng.permutation(len(labels))
    pool = pool[np.argsort(labels[pool], kind="stable")]  # rows by class, in random order within
    left = np.bincount(labels, minlength=classes)
    start = np.cumsum(left) - left
    waiting = np.repeat(np.arange(clients), sizes)
    rows, owners = [], []
    while len(waiting):
        waiting = rng.permutation(waiting)
        asked = _draw(mix, left > 0, waiting, rng)
        order = np.argsort(asked, kind="stable")
        waiting, asked = waiting[order], asked[order]
        turn = np.arange(len(asked)) - np.searchsorted(asked, asked)  # place in the class's queue
        served = turn < left[asked]
        rows.append(pool[start[asked[served]] + turn[served]])
        owners.append(waiting[served])
        given = np.bincount(asked[served], minlength=classes)
        start, left, waiting = start + given, left - given, waiting[~served]
    return from_owners(np.concatenate(rows), np.concatenate(owners), clients)


def _draw(mix: NDArray[np.float64], open_: NDArray[np.bool_], clients: Indices, rng: Generator) -> Indices:
    """A class for each entry of `clients`, by its mix restricted to the open classes."""
    heights = np.cumsum((mix + FLOOR) * open_, axis=1)
    heights /= heights[:, -1:]
    # One sorted array for all clients, each shifted by its number, makes the draw one search.
    ladder = (heights + np.arange(len(mix))[:, np.newaxis]).ravel()
    found = np.searchsorted(ladder, clients + rng.random(len(clients)), side="right")
    drawn: Indices = np.minimum(found - clients * mix.shape[1], mix.shape[1] - 1)
    return drawn
