"""Ridge regression of missing updates on their basis: one set of coefficients for each layer."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.strategies.missing.basis import DRIFT_CORRECTED, combined
from fedeff.strategies.missing.flat import Vector
from fedeff.strategies.missing.history import Situation
from fedeff.strategies.missing.labels import Erasures, Labels, late_labels

__all__ = ["Ridge", "ridge"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]


def ridge(labels: Iterable[Labels], penalty: float) -> NDArray:
    """The coefficients that fit the labels best, (layers, basis), drawn towards the drift-corrected ones.

    Minimises the mean of `||B a - truth||^2 / ||truth||^2 + penalty ||a - alpha_0||^2` for each layer.
    """
    blocks = np.concatenate([one.blocks() for one in labels])
    truths = np.maximum(blocks[:, :, -1, -1], 1e-30)[:, :, None]
    grams = np.mean(blocks[:, :, :-1, :-1] / truths[..., None], axis=0)
    products = np.mean(blocks[:, :, :-1, -1] / truths, axis=0)
    penalised = grams + penalty * np.eye(grams.shape[1])
    missed = products - grams @ DRIFT_CORRECTED
    return DRIFT_CORRECTED + np.linalg.solve(penalised, missed[..., None])[..., 0]


class Ridge:
    """Estimates by `ridge` over the labels of the last rounds; drift-corrected until the first are there."""

    def __init__(self, *, penalty: float = 0.1, buffer: int = 1500, seed: int = 0) -> None:
        if not penalty > 0:
            raise ConfigError(f"penalty is {penalty}, expected a positive number")
        self._penalty, self._buffer, self._seed = penalty, buffer, seed
        self._labels: deque[Labels] = deque()
        self._erasures = Erasures()

    def learn(self, situation: Situation) -> None:
        """Take late updates and erased ones as labels."""
        rng = generator(self._seed, purpose="erasures", round=situation.server_round)
        self._labels.extend(late_labels(situation))
        if (erased := self._erasures.labels(situation, rng)) is not None:
            self._labels.append(erased)
        while sum(len(one) for one in self._labels) * len(situation.layers.slices) > self._buffer:
            self._labels.popleft()
        self._erasures.hold(situation, rng)
        self._erasures.forget(situation.server_round - situation.history.horizon)

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """An update for each missing client."""
        rows = np.tile(DRIFT_CORRECTED, (len(situation.layers.slices), 1))
        coefficients = ridge(self._labels, self._penalty) if self._labels else rows
        latest = situation.history.latest
        return {
            node: combined(coefficients, situation.basis(latest[node]), situation.layers)
            for node in situation.missing
        }

    def needed_rounds(self) -> set[int]:
        """Rounds of held updates."""
        return self._erasures.needed_rounds()
