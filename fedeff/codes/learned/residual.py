"""Ours, with the function unchanged at parity workers: a linear code, and networks that correct it."""

import copy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.codes.learned.linear_decoding import apply_decoding, linear_decoding
from fedeff.codes.learned.losses import default_distance, distance, over_missing
from fedeff.codes.learned.network import Batch, CodeNetwork, Shapes
from fedeff.codes.linear import Matrix

__all__ = ["PARITY_WORKERS", "ParityWorkers", "ResidualNetwork"]

ParityWorkers = Literal["same", "own"]
PARITY_WORKERS: tuple[str, ...] = get_args(ParityWorkers)
_CHANNELS = 32
_DILATIONS = (1, 2, 4, 1)
_HIDDEN = 256
_LOGITS = 0.01  # weight of the logits' own distance beside that of the distributions


class ResidualNetwork(CodeNetwork):
    """Parities `A X + E(X)` and answers `L y + D(L y, y, mask)`, with E and D zero before training.

    `A` is an MDS code's matrix and `L` solves it, so that it begins as that code: exact for affine
    functions. `E` works at half the resolution of images. Parity workers run the function, or copies of
    `begin` that are trained along.
    """

    coefficients: Tensor

    def __init__(self, parity: Matrix, shapes: Shapes, begin: nn.Module | None) -> None:
        super().__init__(parity.shape[1], len(parity), shapes)
        self._parity = parity
        self.register_buffer("coefficients", torch.from_numpy(parity.copy()).float(), persistent=False)
        self.encoder = (_HalfResolution if _is_image(shapes) else _Dense)(self.k, self.r, shapes)
        # Answers, the estimates that the linear code gives, and which outputs came.
        seen = (2 * self.k + self.r) * shapes.output_size + self.k + self.r
        self.decoder = nn.Sequential(
            nn.Linear(seen, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            _zeroed(nn.Linear(_HIDDEN, self.k * shapes.output_size)),
        )
        if begin is not None:
            copies = (copy.deepcopy(begin).requires_grad_(True) for _ in range(self.r))
            self.parity_models = nn.ModuleList(copies)

    def encode(self, inputs: Tensor) -> Tensor:
        """The weighted sums and what the encoder adds to them."""
        added: Tensor = self.encoder(inputs)
        return torch.einsum("rk,gk...->gr...", self.coefficients, inputs) + added

    def decode(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """The linear code's estimates and what the decoder adds to them."""
        left = outputs.flatten(2) * masks[:, None, :, None]
        guess = apply_decoding(linear_decoding(self._parity, masks), outputs)
        known = masks.to(left.dtype)[:, None].expand(-1, len(outputs), -1)
        added: Tensor = self.decoder(torch.cat([left.flatten(2), guess.flatten(2), known], -1))
        return guess + added.reshape(guess.shape)

    def loss(self, batch: Batch, function: nn.Module, masks: Tensor) -> Tensor:
        """The divergence from the function's distribution, over patterns and the answers that each erases."""
        outputs = torch.cat([batch.answers, self.answer(self.encode(batch.inputs), function)], 1)
        estimates = self.decode(outputs, masks)
        answers = batch.answers.expand_as(estimates)
        apart = distance("kl", estimates, answers)
        # A little of the logits' own distance keeps them from drifting where the distribution is settled.
        apart = apart + _LOGITS * distance("mse", estimates, answers)
        return over_missing(apart, masks)

    def default_loss(self, batch: Batch) -> Tensor:
        """The loss of one answer for all."""
        logits = default_distance("mse", batch.answers, batch.labels)
        return default_distance("kl", batch.answers, batch.labels) + _LOGITS * logits


class _HalfResolution(nn.Module):
    """Convolutions on images that the first one halves and the last one's channels fill up again."""

    def __init__(self, k: int, r: int, shapes: Shapes) -> None:
        super().__init__()
        channels = shapes.input[0]
        self.r = r
        self.first = nn.Conv2d(k * channels, _CHANNELS, 4, stride=2, padding=1)
        self.middle = nn.ModuleList(
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=step, dilation=step) for step in _DILATIONS
        )
        self.last = _zeroed(nn.Conv2d(_CHANNELS, 4 * r * channels, 3, padding=1))

    def forward(self, inputs: Tensor) -> Tensor:
        """What is added to the parities, `(groups, r, channels, height, width)`."""
        height, width = inputs.shape[-2:]
        even = F.pad(inputs.flatten(1, 2), (0, width % 2, 0, height % 2))
        x = F.relu(self.first(even))
        for layer in self.middle:
            x = x + F.relu(layer(x))
        added = F.pixel_shuffle(self.last(x), 2)[..., :height, :width]
        return added.reshape(len(inputs), self.r, *inputs.shape[2:])


class _Dense(nn.Module):
    """Two dense layers over all inputs of a group."""

    def __init__(self, k: int, r: int, shapes: Shapes) -> None:
        super().__init__()
        self.shape = (r, *shapes.input)
        self.first = nn.Linear(k * shapes.input_size, _HIDDEN)
        self.last = _zeroed(nn.Linear(_HIDDEN, r * shapes.input_size))

    def forward(self, inputs: Tensor) -> Tensor:
        """What is added to the parities, `(groups, r, ...)`."""
        added: Tensor = self.last(F.relu(self.first(inputs.flatten(1))))
        return added.reshape(-1, *self.shape)


def _is_image(shapes: Shapes) -> bool:
    return len(shapes.input) == 3 and min(shapes.input[1:]) >= 2


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
