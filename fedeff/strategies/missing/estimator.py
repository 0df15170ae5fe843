"""What an estimator of missing updates is, and those that are a formula."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedeff.strategies.missing.basis import DRIFT_CORRECTED, combined
from fedeff.strategies.missing.flat import Vector
from fedeff.strategies.missing.history import Past, Situation

__all__ = ["Drift", "Estimator", "FedVARP", "Stale"]


class Estimator(Protocol):
    """Estimates the updates of clients that are missing in a round, from what the server remembers.

    `learn` comes first in each round, and sees what came in time and late; then `estimate`.
    """

    def learn(self, situation: Situation) -> None:
        """Take the round's real updates as labels, and remember what later rounds need."""
        ...

    def estimate(self, situation: Situation) -> Mapping[int, Vector]:
        """An update for each client that is missing, by node; clients that are left out stay missing."""
        ...

    def needed_rounds(self) -> set[int]:
        """Rounds whose means later rounds need."""
        ...


class _Formula:
    """An estimator that learns nothing."""

    def learn(self, situation: Situation) -> None:
        """Do nothing."""

    def needed_rounds(self) -> set[int]:
        """None."""
        return set()


@dataclass(frozen=True)
class Stale(_Formula):
    """The client's last update once more (MIFA: Gu et al., arXiv:2106.04159, algorithm 1).

    It repeats what the client wanted of an older model: where that was reached meanwhile it oversteps.
    """

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """The last update of each missing client."""
        return {node: situation.history.latest[node].update for node in situation.missing}


@dataclass(frozen=True)
class Drift(_Formula):
    """The client's last update, and how the mean of the others has moved on since.

    `stale + mean now - mean then`: right where all clients' updates change alike from round to round.
    """

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """A corrected update for each missing client."""
        coefficients = np.tile(DRIFT_CORRECTED, (len(situation.layers.slices), 1))
        latest = situation.history.latest
        return {
            node: combined(coefficients, situation.basis(latest[node]), situation.layers)
            for node in situation.missing
        }


@dataclass(frozen=True)
class FedVARP(_Formula):
    """`mean now + share * (stale - the last updates' mean over those who came)`.

    With it the round's mean is that of FedVARP (Jhunjhunwala et al., arXiv:2207.14130, algorithm 1), where
    `share` is 1, and of FedStale (Rodio and Neglia, arXiv:2405.04171), where it is less; at 0 nobody is
    missed. Made for clients that are missing by chance; those that are always missing count once a stale
    update of theirs is there.
    """

    share: float = 1.0

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """An update for each missing client."""
        latest = situation.history.latest
        before = [latest[node] for node in situation.came if node in latest]
        mean = _mean(before) if before else situation.mean.update
        share = np.float32(self.share)
        return {
            node: situation.mean.update + share * (latest[node].update - mean) for node in situation.missing
        }


def _mean(updates: list[Past]) -> Vector:
    total = np.zeros(updates[0].update.shape)
    for one in updates:
        total += one.weight * one.update.astype(np.float64)
    return (total / sum(one.weight for one in updates)).astype(np.float32)
