"""The Gaussian mechanism on a sum of clipped updates."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError

__all__ = ["GaussianSum"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class GaussianSum:
    """A sum of updates, each clipped to an L2 norm over all of its arrays, plus Gaussian noise.

    Every client counts alike, whatever it says of its number of examples, and the sum is divided by the
    number of clients that were *asked*, which is public (McMahan et al., arXiv:1710.06963, the estimator
    of a fixed denominator). So a client, there or not, changes the sum by `clipping_norm` at most: the noise
    has `noise_multiplier` times that as its standard deviation on every entry. A mean weighted by examples
    has no such bound: with noise for `clipping_norm / clients`, as Flower's wrappers add it, one client of
    many examples is hardly hidden.

    Noise is drawn in floating point, whose gaps a determined reader of the exact sum can exploit
    (Mironov, 2012); the means leave in the model's float32, which hides most but proves nothing.
    """

    clipping_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(f"clipping-norm is {self.clipping_norm}, expected a positive number")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError(f"noise-multiplier is {self.noise_multiplier}, expected 0 or more")

    @property
    def deviation(self) -> float:
        """The noise's standard deviation on each entry of the sum."""
        return self.noise_multiplier * self.clipping_norm

    def clipped(self, update: Arrays) -> dict[str, NDArray]:
        """The update in float64, scaled to the norm where it is longer."""
        norm = math.sqrt(sum(float(np.vdot(x := np.asarray(v, np.float64), x)) for v in update.values()))
        scale = min(1.0, self.clipping_norm / norm) if norm > 0 else 1.0
        return {key: scale * np.asarray(values, np.float64) for key, values in update.items()}

    def release(
        self,
        updates: Iterable[Arrays],
        shapes: Mapping[str, tuple[int, ...]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray]:
        """The noisy sum of updates of these shapes; of none it is noise alone."""
        total = {key: np.zeros(shape) for key, shape in shapes.items()}
        for update in updates:
            for key, values in self.clipped(update).items():
                total[key] += values
        return {key: values + rng.normal(0.0, self.deviation, values.shape) for key, values in total.items()}
