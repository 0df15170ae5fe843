"""What the server remembers of clients: the last update of each, and the means of earlier rounds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedeff.strategies.missing.flat import Layers, Vector

__all__ = ["History", "Mean", "Past", "Situation", "without"]


@dataclass(frozen=True, eq=False)
class Past:
    """An update of a client, from the model of the round in which it was asked."""

    server_round: int
    update: Vector
    weight: float  # its examples
    in_time: bool = True  # whether it is part of that round's mean


@dataclass(frozen=True, eq=False)
class Mean:
    """The weighted mean of the updates that came in time in one round, and their weight in all."""

    update: Vector
    weight: float


@dataclass
class History:
    """One update a client, and means and models of those rounds that some of them belong to.

    Memory: `4 * size` bytes for each client that was heard within `horizon` rounds, and twice that for each
    of their rounds.
    """

    horizon: int  # rounds after which an update is forgotten
    latest: dict[int, Past] = field(default_factory=dict)  # by node
    means: dict[int, Mean] = field(default_factory=dict)  # by round
    models: dict[int, Vector] = field(default_factory=dict)  # that each round sent

    def keep(self, updates: Mapping[int, Past]) -> None:
        """Let these take the place of what their clients sent before."""
        self.latest.update(updates)

    def forget(self, server_round: int, needed: Iterable[int]) -> None:
        """Drop updates older than the horizon, and of rounds what neither they nor `needed` name."""
        first = server_round - self.horizon
        self.latest = {node: one for node, one in self.latest.items() if one.server_round > first}
        rounds = {one.server_round for one in self.latest.values()} | set(needed)
        self.means = {number: mean for number, mean in self.means.items() if number in rounds}
        self.models = {number: model for number, model in self.models.items() if number in rounds}


@dataclass(frozen=True, eq=False)
class Situation:
    """A round in which some clients are missing: all that may be known of them.

    `history` is that of the rounds before, but for the `late` updates, which it holds already;
    `stale_of_late` are those that they took the place of.
    """

    server_round: int
    layers: Layers
    model: Vector  # that the round sent
    mean: Mean  # of the updates that came in time
    came: Mapping[int, Past]  # those, by node
    missing: tuple[int, ...]  # nodes with an update in the history
    history: History
    late: Mapping[int, Past] = field(default_factory=dict)
    stale_of_late: Mapping[int, Past] = field(default_factory=dict)
    waits: tuple[int, ...] = ()  # rounds since the others who are missing were asked

    def basis(self, past: Past) -> tuple[Vector, Vector, Vector, Vector]:
        """What an estimate is made of, as `fedeff.strategies.missing.basis.BASIS` names it.

        The mean now, the client's stale update, the mean of its round, and how far the model has come since
        that round. The mean then leaves the client out, as that of now does. Where nobody else came in that
        round it is the mean now: no drift is seen.
        """
        then = self.history.means.get(past.server_round)
        if then is not None and past.in_time:
            then = without(then, [past])
        mean_then = self.mean.update if then is None else then.update
        way = self.model - self.history.models[past.server_round]
        return self.mean.update, past.update, mean_then, way

    def staleness(self, past: Past) -> int:
        """Rounds since the client was asked for that update."""
        return self.server_round - past.server_round

    @property
    def ages(self) -> list[int]:
        """How stale the updates of missing clients are, or will be at least when they come."""
        latest = self.history.latest
        return [self.staleness(latest[node]) for node in self.missing] + list(self.waits)


def without(mean: Mean, left_out: Iterable[Past]) -> Mean | None:
    """The mean of the others; None where there are none."""
    gone = tuple(left_out)
    weight = mean.weight - sum(one.weight for one in gone)
    if not weight > 1e-9 * mean.weight:
        return None
    total = mean.weight * mean.update.astype(np.float64)
    for one in gone:
        total -= one.weight * one.update.astype(np.float64)
    return Mean((total / weight).astype(np.float32), weight)
