"""A client's change, clipped and with noise on each value: the arithmetic of local privacy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedeff.core.errors import ConfigError, ReplyError, unknown_name

__all__ = ["ClippedNoise", "Noise"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, NDArray]
Noise = Literal["gaussian", "laplace"]
_KINDS = ("gaussian", "laplace")


@dataclass(frozen=True)
class ClippedNoise:
    """Clip a change to a norm over all of its arrays, then add noise to every value.

    Gaussian noise has the standard deviation `noise_multiplier * clipping_norm` and goes with the L2
    norm; Laplace noise has that as its scale (its standard deviation is the root of 2 times as much) and
    goes with the **L1** norm, since the Laplace mechanism is calibrated to L1 sensitivity (Dwork & Roth,
    "The Algorithmic Foundations of Differential Privacy", 2014, definitions 3.1 and 3.3). Two changes of
    any two clients are at most `sensitivity = 2 * clipping_norm` apart in that norm. Under an L2 norm C
    Laplace noise would have to be made for `sqrt(values) * C`.

    With `clipping_norm` 0 nothing is clipped and noise has the scale `noise_multiplier`: that guarantees
    nothing. Noise is drawn in floating point, whose gaps a determined reader of exact values can exploit
    (Mironov, "On significance of the least significant bits for differential privacy", 2012).
    """

    clipping_norm: float = 0.0
    noise_multiplier: float = 0.0
    noise: Noise = "gaussian"

    def __post_init__(self) -> None:
        for key in ("clipping_norm", "noise_multiplier"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ConfigError(f"local-{key.replace('_', '-')} is {value}, expected 0 or more")
        if self.noise not in _KINDS:
            raise unknown_name("local-noise", self.noise, _KINDS)

    @property
    def scale(self) -> float:
        """The noise's own parameter on each value: standard deviation, or the scale of Laplace."""
        return self.noise_multiplier * (self.clipping_norm or 1.0)

    @property
    def std(self) -> float:
        """The noise's standard deviation on each value."""
        return self.scale * (math.sqrt(2.0) if self.noise == "laplace" else 1.0)

    @property
    def sensitivity(self) -> float:
        """How far apart two clipped changes can be in the norm of this noise; infinite without clipping."""
        return 2 * self.clipping_norm or math.inf

    def norm(self, change: Arrays) -> float:
        """The norm that is clipped to: L2, with Laplace noise L1, over all arrays."""
        power = 1 if self.noise == "laplace" else 2
        norms = [np.linalg.norm(np.asarray(values, np.float64).ravel(), power) for values in change.values()]
        return float(np.linalg.norm(norms, power)) if norms else 0.0

    def clipped(self, change: Arrays) -> dict[str, NDArray]:
        """The change in float64, scaled down to the norm where it is longer.

        Raises:
            ReplyError: for NaN or infinity, as training that diverged does.
        """
        length = self.norm(change)
        if not math.isfinite(length):
            raise ReplyError(
                "the client's change is not finite, so it cannot be clipped; lower the learning rate"
            )
        shrink = self.clipping_norm / length if 0 < self.clipping_norm < length else 1.0
        return {key: shrink * np.asarray(values, np.float64) for key, values in change.items()}

    def released(self, change: Arrays, rng: np.random.Generator) -> dict[str, NDArray]:
        """What may be told of the change, float64: clipped, then with noise from `rng`."""
        told = self.clipped(change)
        if not self.scale:
            return told
        draw = rng.laplace if self.noise == "laplace" else rng.normal
        return {key: values + draw(0.0, self.scale, values.shape) for key, values in told.items()}
