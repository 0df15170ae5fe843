"""Any code, with the quality of its estimates measured."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.codes.code import Code, Decoded, NDArray
from fedeff.codes.learned.frozen import frozen
from fedeff.codes.learned.quality import Answers, PatternQuality, classes, measure
from fedeff.codes.learned.samples import as_samples
from fedeff.models.threads import one_thread

__all__ = ["Measured", "measured"]


@dataclass(frozen=True, eq=False)
class Measured:
    """A code whose estimates say how often they were right.

    Encodes and decodes as `code` does; where that knows no quality, the measured one stands.
    """

    code: Code
    pattern_quality: PatternQuality

    @property
    def k(self) -> int:
        """Inputs of a group."""
        return self.code.k

    @property
    def r(self) -> int:
        """Tasks beyond the inputs."""
        return self.code.r

    @property
    def systematic(self) -> bool:
        """Whether the first `k` workers get the inputs as they are."""
        return self.code.systematic

    @property
    def parity_models(self) -> tuple[nn.Module, ...]:
        """What parity workers run; none where they run the function."""
        return tuple(getattr(self.code, "parity_models", ()))

    def encode(self, inputs: NDArray) -> NDArray:
        """What the code makes of the inputs."""
        return self.code.encode(inputs)

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The code's answers, with the measured quality where it gives none."""
        decoded = self.code.decode(outputs, mask)
        unknown = np.isnan(decoded.quality)
        return Decoded(decoded.values, np.where(unknown, self.pattern_quality.of(mask), decoded.quality))

    def decodable(self, mask: NDArray) -> bool:
        """Whether the code can decode this."""
        return self.code.decodable(mask)


def measured(
    code: Code,
    function: nn.Module,
    samples: torch.Tensor | NDArray,
    *,
    patterns: int = 32,
    seed: int = 0,
    answers: Answers = classes,
) -> Measured:
    """The code, its estimates compared with what the function says of `(n, ...)` samples.

    Under every erasure pattern of up to `r`, or a seeded sample of `patterns`; `PatternQuality` says what
    the others get. `answers` is what is compared, by default the likeliest class. For codes that need no
    training, such as Berrut's; `fit` measures its own on samples that it did not train on.

    Raises:
        CodeError: if the samples are not a float array, or fewer than a group has.
    """
    with one_thread(), frozen(function):
        tensor = as_samples(samples)
        quality = measure(code, function, tensor, patterns=patterns, seed=seed, answers=answers)
    return Measured(code, quality)
