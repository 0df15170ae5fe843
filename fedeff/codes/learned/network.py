"""What every learned code is in torch: an encoder, parity models or none, a decoder, a loss."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedeff.codes.learned.frozen import answers_of

__all__ = ["Batch", "CodeNetwork", "Shapes"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """The shapes of one input and of one answer."""

    input: Shape
    output: Shape

    @property
    def input_size(self) -> int:
        """Numbers in an input."""
        return math.prod(self.input)

    @property
    def output_size(self) -> int:
        """Numbers in an answer."""
        return math.prod(self.output)

    @property
    def planes(self) -> tuple[int, Shape]:
        """Channels of an input, and the shape of one: of three dimensions the first counts channels."""
        return (self.input[0], self.input[1:]) if len(self.input) == 3 else (1, self.input)


@dataclass(frozen=True, eq=False)
class Batch:
    """Groups to learn from."""

    inputs: Tensor  # (groups, k, ...)
    answers: Tensor  # (groups, k, ...), of the function
    labels: Tensor  # (groups, k), the classes; the function's own where none are known


class CodeNetwork(nn.Module, ABC):
    """The trainable half of a code of `k` inputs and `r` parities, in batches of groups.

    Parity workers run the function itself, or `parity_models[i]` where there are any: each from inputs
    `(n, ...)` to answers `(n, ...)` of the function's shapes.
    """

    parity_models: nn.ModuleList

    def __init__(self, k: int, r: int, shapes: Shapes) -> None:
        super().__init__()
        self.k, self.r, self.shapes = k, r, shapes
        self.parity_models = nn.ModuleList()

    def prepare(self, samples: Tensor) -> None:
        """Sets what follows from `(n, ...)` samples in closed form, before training. By default nothing."""

    @abstractmethod
    def encode(self, inputs: Tensor) -> Tensor:
        """The parities, `(groups, r, ...)`, of inputs `(groups, k, ...)`."""

    @abstractmethod
    def decode(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """Estimates `(patterns, groups, k, ...)` of all answers under each of `(patterns, n)` masks.

        From outputs `(groups, n, ...)`, of which those erased by a mask must not be read under it. What it
        says of answers that came is not used.
        """

    @abstractmethod
    def loss(self, batch: Batch, function: nn.Module, masks: Tensor) -> Tensor:
        """What training makes small."""

    @abstractmethod
    def default_loss(self, batch: Batch) -> Tensor:
        """What the loss would be if every estimate were the same: nothing learned."""

    def answer(self, parities: Tensor, function: nn.Module) -> Tensor:
        """What the parity workers say of `(groups, r, ...)` parities; gradients flow."""
        if self.parity_models:
            answers = [model(parities[:, i]) for i, model in enumerate(self.parity_models)]
            return torch.stack(answers, 1)
        flat: Tensor = function(parities.flatten(0, 1))
        return flat.reshape(*parities.shape[:2], *flat.shape[1:])

    @torch.no_grad()
    def outputs(self, inputs: Tensor, function: nn.Module) -> Tensor:
        """What all workers say of inputs `(groups, k, ...)`, `(groups, n, ...)`."""
        own = answers_of(function, inputs.flatten(0, 1)).reshape(*inputs.shape[:2], *self.shapes.output)
        return torch.cat([own, self.answer(self.encode(inputs), function)], 1)
