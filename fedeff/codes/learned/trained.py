"""A learned code, fitted: numpy in, numpy out, and a record of how it came about."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.learned.network import CodeNetwork, Shapes
from fedeff.codes.learned.quality import PatternQuality
from fedeff.codes.learned.recipes import Recipe
from fedeff.core.errors import CodeError

__all__ = ["FitRecord", "TrainedCode"]


@dataclass(frozen=True)
class FitRecord:
    """How a code was fitted."""

    seed: int
    function: str  # `function_digest` of the function
    steps: int
    restarts: int
    first_loss: float
    last_loss: float
    cpu_s: float
    version: str  # of fedeff


@dataclass(frozen=True, eq=False)
class TrainedCode:
    """What `fit` gives: a code for one function, its inputs of one shape.

    Any `k` outputs can be decoded. Originals that came are given as they came, bit for bit; the others are
    estimates, whose quality was measured on samples that were not trained on.
    """

    recipe: Recipe
    shapes: Shapes
    network: CodeNetwork
    pattern_quality: PatternQuality
    record: FitRecord
    systematic: ClassVar[bool] = True

    @property
    def k(self) -> int:
        """Inputs of a group."""
        return self.recipe.k

    @property
    def r(self) -> int:
        """Parities."""
        return self.recipe.r

    @property
    def parity_models(self) -> tuple[nn.Module, ...]:
        """What parity worker `i` runs; none where all run the function."""
        return tuple(self.network.parity_models)

    @torch.inference_mode()
    def encode(self, inputs: NDArray) -> NDArray:
        """The parities, `(r, ...)`, in the inputs' dtype.

        Raises:
            CodeError: if these are not `k` float inputs of the shape that the code was fitted to.
        """
        check_inputs(self, inputs)
        _check_array("inputs", inputs, self.shapes.input)
        parities = self.network.encode(_tensor(inputs)[None])[0]
        return parities.numpy().astype(inputs.dtype, copy=False)

    @torch.inference_mode()
    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The originals that came, as they are, and estimates of the others, in the outputs' dtype.

        Raises:
            CodeError: if the shapes are not those that the code was fitted to, or fewer than `k` came.
        """
        check_outputs(self, outputs, mask)
        _check_array("outputs", outputs, self.shapes.output)
        values, own = outputs[: self.k].copy(), mask[: self.k]
        if not own.all():
            came = np.zeros(outputs.shape, np.float32)
            came[mask] = outputs[mask]  # the others may hold anything, and not a number times zero is none
            estimates = self.network.decode(torch.from_numpy(came)[None], torch.from_numpy(mask)[None])
            values[~own] = estimates[0, 0].numpy()[~own]
        return Decoded(values, self.pattern_quality.of(mask))

    def decodable(self, mask: NDArray) -> bool:
        """Whether `k` outputs came."""
        return int(mask.sum()) >= self.k


def _check_array(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    if array.shape[1:] != shape or not np.issubdtype(array.dtype, np.floating):
        expected = (len(array), *shape)
        raise CodeError(
            f"{name} {array.shape} of {array.dtype}, expected {expected} floats, which the code was fitted to"
        )


def _tensor(array: NDArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
