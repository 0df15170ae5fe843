"""ParM: the function's own inputs are combined plainly, and parity models learn what to answer.

Kosaian, Rashmi, Venkataraman, "Parity Models: Erasure-Coded Resilience for Prediction Serving Systems",
arXiv:1905.00863, section 3.
"""

import copy
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.codes.learned.linear_decoding import apply_decoding, linear_decoding
from fedeff.codes.learned.network import Batch, CodeNetwork, Shapes
from fedeff.codes.linear import Matrix
from fedeff.core.errors import ConfigError

__all__ = ["COMBINATIONS", "Combination", "ParityModelNetwork", "untrained_copy"]

Combination = Literal["sum", "concat"]
COMBINATIONS: tuple[str, ...] = get_args(Combination)


class ParityModelNetwork(CodeNetwork):
    """Parity model `j` learns `sum_i a_ji F(X_i)` by mean squares; decoding solves for what is missing.

    "sum" gives it `sum_i a_ji X_i`. "concat" gives every parity model the same image, on which each input
    of the group has a tile, averaged down to its size.
    """

    coefficients: Tensor

    def __init__(self, parity: Matrix, shapes: Shapes, combine: Combination, function: nn.Module) -> None:
        super().__init__(parity.shape[1], len(parity), shapes)
        if combine == "concat" and len(shapes.input) != 3:
            raise ConfigError(f"'concat' needs (channels, height, width), got {shapes.input}; take 'sum'")
        self._parity, self._combine = parity, combine
        self.register_buffer("coefficients", torch.from_numpy(parity.copy()).float(), persistent=False)
        self.parity_models = nn.ModuleList(untrained_copy(function) for _ in range(self.r))

    def encode(self, inputs: Tensor) -> Tensor:
        """The weighted sums, or the same tiled image for every parity model."""
        if self._combine == "concat":
            return tiled(inputs)[:, None].expand(-1, self.r, *self.shapes.input)
        return torch.einsum("rk,gk...->gr...", self.coefficients, inputs)

    def decode(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """The solution for what each mask erases, as if parity models were exact."""
        return apply_decoding(linear_decoding(self._parity, masks), outputs)

    def loss(self, batch: Batch, function: nn.Module, masks: Tensor) -> Tensor:
        """Mean square to the weighted sums of answers; erasure patterns play no part."""
        return F.mse_loss(self.answer(self.encode(batch.inputs), function), self._wanted(batch))

    def default_loss(self, batch: Batch) -> Tensor:
        """The variance of the weighted sums."""
        wanted = self._wanted(batch)
        return (wanted - wanted.mean(0)).square().mean()

    def _wanted(self, batch: Batch) -> Tensor:
        return torch.einsum("rk,gk...->gr...", self.coefficients, batch.answers)


def untrained_copy(function: nn.Module) -> nn.Module:
    """The function's architecture with fresh weights, ready to train.

    Weights of modules that offer no `reset_parameters` stay as they are.
    """
    model = copy.deepcopy(function).train().requires_grad_(True)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model


def tiled(inputs: Tensor) -> Tensor:
    """Images `(groups, channels, height, width)` on which inputs `(groups, k, ...)` are tiles, row by row."""
    groups, k, channels, height, width = inputs.shape
    rows, columns = _grid(k)
    tall, wide = height // rows, width // columns
    if min(tall, wide) < 1:
        raise ConfigError(f"no room for {k} tiles in images of {height}x{width}; take 'sum'")
    small = F.adaptive_avg_pool2d(inputs.flatten(0, 1), (tall, wide)).reshape(groups, k, channels, tall, wide)
    empty = small.new_zeros(groups, rows * columns - k, channels, tall, wide)
    grid = torch.cat([small, empty], 1).reshape(groups, rows, columns, channels, tall, wide)
    image = grid.permute(0, 3, 1, 4, 2, 5).reshape(groups, channels, rows * tall, columns * wide)
    return F.pad(image, (0, width - columns * wide, 0, height - rows * tall))


def _grid(k: int) -> tuple[int, int]:
    """Rows and columns of the smallest nearly square grid for `k` tiles.

    >>> [_grid(k) for k in (1, 2, 4, 10)]
    [(1, 1), (2, 1), (2, 2), (4, 3)]
    """
    rows = math.ceil(math.sqrt(k))
    return rows, math.ceil(k / rows)
