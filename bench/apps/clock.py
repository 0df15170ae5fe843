"""Seconds per round, told from outside the round."""

import time
from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord

__all__ = ["RoundClock"]


class RoundClock:
    """An `evaluate_fn` for `Strategy.start`: the time between two evaluations is one round.

    That is how the yardstick app tells it: configuring, sending, training and aggregating count,
    evaluating does not. `check` sees every model.
    """

    def __init__(self, check: Callable[[int, ArrayRecord], MetricRecord | None]) -> None:
        self._check = check
        self._ticks: list[float] = []

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        self._ticks.append(time.perf_counter())
        metrics = self._check(server_round, arrays)
        self._ticks.append(time.perf_counter())
        return metrics

    @property
    def seconds(self) -> list[float]:
        """Of every round but the first, which warms up."""
        pairs = zip(self._ticks[1::2], self._ticks[2::2], strict=False)
        return [after - before for before, after in pairs][1:]
