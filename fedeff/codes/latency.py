"""How long groups of tasks take where nothing queues: order statistics of workers' delays."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.core.delays import DelayModel
from fedeff.core.errors import ConfigError

__all__ = ["Latencies", "coded", "replicated", "slowdowns"]

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Latencies:
    """What `groups` of `k` items took, in the unit of the delays."""

    items: NDArray  # (groups, k): until an item's answer was there, its own or a reconstructed one
    busy: NDArray  # (groups,): worker time spent, none of it cancelled

    @property
    def groups(self) -> NDArray:
        """Until all items of a group were answered, (groups,)."""
        longest: NDArray = self.items.max(axis=1)
        return longest


def slowdowns(delays: DelayModel, workers: int, rounds: range) -> NDArray:
    """Every worker's slowdown in each of these rounds, `(rounds, workers)`.

    Workers take turns: column `j` of the `t`-th row is worker `(t + j) mod workers`, so that a worker
    that is always slow is met in every place of a group.
    """
    if workers < 1 or len(rounds) < 1:
        raise ConfigError(f"{workers} workers over {len(rounds)} rounds; both must be at least 1")
    return np.array(
        [[delays.slowdown((at + one) % workers, at) for one in range(workers)] for at in rounds], np.float64
    )


def coded(times: NDArray, k: int, r: int) -> Latencies:
    """Groups of `k` originals and `r` parities, any `k` of which give all; `r = 0` is uncoded.

    `times` is `(groups, workers)` with at least `k + r` workers, of which the first do the work: an item
    is answered by its own worker or when `k` of the group's tasks are done, whichever is first. That is a
    systematic code with a threshold: exact for MDS codes of linear functions, an estimate for learned ones.
    """
    if not (k >= 1 and r >= 0 and k + r <= times.shape[1]):
        raise ConfigError(
            f"k={k}, r={r} need {k + r} workers of the {times.shape[1]} there are; choose fewer"
        )
    mine = times[:, : k + r]
    decodable = np.partition(mine, k - 1, axis=1)[:, k - 1]
    return Latencies(np.minimum(mine[:, :k], decodable[:, None]), mine.sum(axis=1))


def replicated(times: NDArray, k: int, copies: int) -> Latencies:
    """Groups of `k` items, each given to `copies` workers, of which the first answers."""
    if not (k >= 1 and copies >= 1 and k * copies <= times.shape[1]):
        raise ConfigError(
            f"{copies} copies of {k} items need {k * copies} workers of the {times.shape[1]} there are"
        )
    mine = times[:, : k * copies]
    return Latencies(mine.reshape(len(mine), copies, k).min(axis=1), mine.sum(axis=1))
