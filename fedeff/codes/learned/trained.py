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

_GROUPS = 500  # that go through a network together


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

    def encode(self, inputs: NDArray) -> NDArray:
        """The parities, `(r, ...)`, in the inputs' dtype.

        Raises:
            CodeError: if these are not `k` float inputs of the shape that the code was fitted to.
        """
        check_inputs(self, inputs)
        parities: NDArray = self.encode_groups(inputs[None])[0]
        return parities

    @torch.inference_mode()
    def encode_groups(self, inputs: NDArray) -> NDArray:
        """The parities of many groups, `(groups, r, ...)`, in the inputs' dtype.

        Raises:
            CodeError: if these are not `(groups, k, ...)` float inputs, as `encode` takes them.
        """
        _check_array("inputs", inputs, (self.k, *self.shapes.input))
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(inputs, np.float32)), _GROUPS)
        parities = torch.cat([self.network.encode(part) for part in parts])
        found: NDArray = parities.numpy().astype(inputs.dtype, copy=False)
        return found

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The originals that came, as they are, and estimates of the others, in the outputs' dtype.

        Raises:
            CodeError: if the shapes are not those that the code was fitted to, or fewer than `k` came.
        """
        check_outputs(self, outputs, mask)
        return Decoded(self.decode_groups(outputs[None], mask)[0], self.pattern_quality.of(mask))

    @torch.inference_mode()
    def decode_groups(self, outputs: NDArray, mask: NDArray) -> NDArray:
        """The answers of many groups, `(groups, k, ...)`, the same workers missing in all.

        Raises:
            CodeError: as `decode` does.
        """
        _check_array("outputs", outputs, (self.k + self.r, *self.shapes.output))
        check_outputs(self, outputs[0], mask)
        values, own = outputs[:, : self.k].copy(), mask[: self.k]
        if own.all():
            return values
        came = np.zeros(outputs.shape, np.float32)
        came[:, mask] = outputs[:, mask]  # the others may hold anything, and not a number times zero is none
        masks = torch.from_numpy(mask)[None]
        parts = [self.network.decode(part, masks)[0] for part in torch.split(torch.from_numpy(came), _GROUPS)]
        values[:, ~own] = torch.cat(parts).numpy()[:, ~own]
        return values

    def decodable(self, mask: NDArray) -> bool:
        """Whether `k` outputs came."""
        return int(mask.sum()) >= self.k


def _check_array(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    """Of groups: each must be of this shape."""
    if array.shape[1:] != shape or not np.issubdtype(array.dtype, np.floating):
        raise CodeError(
            f"{name} {array.shape[1:]} of {array.dtype}, expected {shape} floats, as the code was fitted to"
        )
