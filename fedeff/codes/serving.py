"""Serving with queues, simulated: what a stream of groups waits for under each way to beat slow workers.

Every scheme meets the same arrivals and the same workers: how slow a worker is depends on the worker and
on the time at which it begins a task, never on the scheme.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedeff.core.delays import DelayModel
from fedeff.core.errors import ConfigError

__all__ = ["Scheme", "Served", "serve"]

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scheme:
    """Workers, and what a group of `k` items sends them.

    `copies` tasks of each item go to `workers` that share one queue; `r` parities of each group go to
    `parity_workers` that share another, and any `k` tasks of a group with different contents answer all
    of it. With `hedge_after_s` an item not answered that long after a task of it began is queued once more.
    """

    workers: int
    k: int
    r: int = 0
    parity_workers: int = 0
    copies: int = 1
    hedge_after_s: float = math.inf

    def __post_init__(self) -> None:
        if min(self.workers, self.k, self.copies) < 1 or min(self.r, self.parity_workers) < 0:
            raise ConfigError(f"{self}: workers, k and copies must be at least 1, the others at least 0")
        if (self.r > 0) != (self.parity_workers > 0):
            raise ConfigError(
                f"r is {self.r} with {self.parity_workers} parity workers; give both or neither"
            )
        if not self.hedge_after_s > 0:
            raise ConfigError(f"hedge_after_s is {self.hedge_after_s}, expected a positive number or inf")


@dataclass(frozen=True, eq=False)
class Served:
    """What the items of a stream waited, in virtual seconds."""

    items: NDArray  # (groups, k): from arrival to answer
    busy_s: float  # of all workers together
    reconstructed: int  # items whose answer came from the code before their own task was done
    tasks: int  # begun


def serve(scheme: Scheme, arrivals_s: NDArray, delays: DelayModel, service_s: float = 1.0) -> Served:
    """The waits of groups that arrive at these times, `(groups,)` ascending.

    A task takes `service_s` times its worker's slowdown in the round `start / service_s`. Tasks that run
    are never cancelled; those that wait are dropped once nobody needs them.
    """
    return _Stream(scheme, np.asarray(arrivals_s, np.float64), delays, service_s).run()


@dataclass
class _Pool:
    """Workers that are free, lowest number first, and what waits for them."""

    free: list[int]
    waiting: deque[tuple[int, int]] = field(default_factory=deque)  # (group, place)


class _Stream:
    """One run; places of a group are its items 0..k-1 and its parities k..k+r-1."""

    def __init__(self, scheme: Scheme, arrivals_s: NDArray, delays: DelayModel, service_s: float) -> None:
        self._scheme, self._arrivals_s, self._delays, self._service_s = scheme, arrivals_s, delays, service_s
        first_parity = scheme.workers
        self._items = _Pool(list(range(first_parity)))
        self._parities = _Pool(list(range(first_parity, first_parity + scheme.parity_workers)))
        self._answered_s = np.full((len(arrivals_s), scheme.k), np.inf)
        self._done: list[set[int]] = [set() for _ in arrivals_s]
        self._hedged: set[tuple[int, int]] = set()
        self._events: list[tuple[float, int, str, int, int, int]] = []
        self._order = self._reconstructed = self._tasks = 0
        self._busy_s = 0.0

    def run(self) -> Served:
        """Handle arrivals, ends of tasks and hedges in the order of their times."""
        for group, at_s in enumerate(self._arrivals_s):
            self._push(float(at_s), "arrival", group)
        while self._events:
            now_s, _, kind, group, place, worker = heapq.heappop(self._events)
            if kind == "arrival":
                self._arrive(group)
            elif kind == "end":
                self._end(now_s, group, place, worker)
            elif not self._settled(group, place) and (group, place) not in self._hedged:
                self._hedged.add((group, place))
                self._items.waiting.appendleft((group, place))
            self._start(now_s, self._items)
            self._start(now_s, self._parities)
        waits = self._answered_s - self._arrivals_s[:, None]
        return Served(waits, self._busy_s, self._reconstructed, self._tasks)

    def _push(self, at_s: float, kind: str, group: int, place: int = 0, worker: int = 0) -> None:
        self._order += 1  # equal times in the order in which they were pushed
        heapq.heappush(self._events, (at_s, self._order, kind, group, place, worker))

    def _arrive(self, group: int) -> None:
        for _ in range(self._scheme.copies):
            self._items.waiting.extend((group, item) for item in range(self._scheme.k))
        k = self._scheme.k
        self._parities.waiting.extend((group, k + parity) for parity in range(self._scheme.r))

    def _start(self, now_s: float, pool: _Pool) -> None:
        """Give waiting tasks to free workers."""
        while pool.free and pool.waiting:
            group, place = pool.waiting.popleft()
            if self._settled(group, place):
                continue
            worker = heapq.heappop(pool.free)
            took_s = self._service_s * self._delays.slowdown(worker, int(now_s / self._service_s))
            self._tasks += 1
            self._busy_s += took_s
            self._push(now_s + took_s, "end", group, place, worker)
            if place < self._scheme.k and self._scheme.hedge_after_s < math.inf:
                self._push(now_s + self._scheme.hedge_after_s, "hedge", group, place)

    def _settled(self, group: int, place: int) -> bool:
        """Whether nobody needs this task any more."""
        if place < self._scheme.k:
            return bool(self._answered_s[group, place] < np.inf)
        return bool((self._answered_s[group] < np.inf).all())

    def _end(self, now_s: float, group: int, place: int, worker: int) -> None:
        heapq.heappush((self._items if worker < self._scheme.workers else self._parities).free, worker)
        self._done[group].add(place)
        answers = self._answered_s[group]
        if place < self._scheme.k:
            answers[place] = min(answers[place], now_s)
        if len(self._done[group]) >= self._scheme.k:
            open_items = answers == np.inf
            self._reconstructed += int(open_items.sum())
            answers[open_items] = now_s
