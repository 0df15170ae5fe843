"""Ours, with parity models: a parity holds a compact form of every input, and its answer holds every answer.

What is new is to let inputs of a group not interfere. A parity model that answers with a sum must be right
about all `k` inputs for one answer to be recovered; here an error about one input stays with that input.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.codes.learned.losses import default_distance, distance
from fedeff.codes.learned.network import Batch, CodeNetwork, Shapes
from fedeff.codes.learned.packing import levels_of, pack, unpack
from fedeff.core.errors import ConfigError

__all__ = ["PackedNetwork", "affordable_width"]

_DROPOUT = 0.1  # of the features in training: without it ten passes over the samples learn them by heart
_TEMPERATURE = 2.0  # of the distillation: Hinton, Vinyals, Dean, arXiv:1503.02531, section 2
_WIDTHS = (16, 512)
_LARGEST_INPUT = 8192  # numbers; the principal components of more take minutes
_FLOOR = 1e-4  # of the largest variance: pixels that never change are not blown up
_ROWS = 20_000  # samples that principal components are taken of


class PackedNetwork(CodeNetwork):
    """Each parity holds `d / k` learned linear features of every input of `d` numbers.

    Its parity model, a perceptron of two hidden layers that all inputs share, imitates the function on each
    (distillation, arXiv:1503.02531), and its answers are packed into one answer's numbers. Encoder and
    parity models are trained together, the encoder from the principal components. What several parities say
    of an answer is averaged, in log-probabilities.
    """

    centre: Tensor

    def __init__(self, k: int, r: int, shapes: Shapes, width: int) -> None:
        super().__init__(k, r, shapes)
        levels_of(k)
        if not k <= shapes.input_size <= _LARGEST_INPUT:
            raise ConfigError(f"inputs of {shapes.input_size} numbers, expected {k} to {_LARGEST_INPUT}")
        self.size = shapes.input_size // k  # numbers for each input of a group
        self.register_buffer("centre", torch.zeros(shapes.input_size))
        self.features = nn.Parameter(torch.zeros(r, shapes.input_size, self.size))
        self.parity_models = nn.ModuleList(PackedModel(k, self.size, shapes, width) for _ in range(r))

    def prepare(self, samples: Tensor) -> None:
        """Principal components of the samples become the features, each scaled to similar size."""
        flat = samples[:_ROWS].flatten(1)
        centre = flat.mean(0)
        variances, components = torch.linalg.eigh((flat - centre).T @ (flat - centre) / len(flat))
        order = torch.arange(len(variances) - 1, len(variances) - 1 - self.size, -1)
        # Halfway between the components' own scale and whitening: noise in the last ones stays small.
        scale = variances[order].clamp_min(max(_FLOOR * float(variances[-1]), 1e-12)).pow(-0.25)
        kept = components[:, order] * scale
        spread = ((flat - centre) @ kept).square().mean().sqrt().clamp_min(1e-12)
        with torch.no_grad():
            self.centre.copy_(centre)
            self.features.copy_((kept / spread).expand_as(self.features))

    def encode(self, inputs: Tensor) -> Tensor:
        """The features of all inputs, one after the other, in the shape of one input."""
        flat = inputs.flatten(2).flatten(0, 1) - self.centre
        features = (flat @ self.features).reshape(self.r, len(inputs), self.k * self.size).transpose(0, 1)
        filled = F.pad(features, (0, self.shapes.input_size - self.k * self.size))
        return filled.reshape(len(inputs), self.r, *self.shapes.input)

    def decode(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """For each pattern the mean over the parities that came."""
        packed = outputs[:, self.k :].flatten(0, 1)
        spoken = unpack(packed, self.k).reshape(len(outputs), self.r, self.k, *self.shapes.output)
        came = masks[:, self.k :].to(spoken.dtype)
        shares = came / came.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("pr,gr...->pg...", shares, spoken)

    def loss(self, batch: Batch, function: nn.Module, masks: Tensor) -> Tensor:
        """The divergence of each parity model's softened answers from the function's, before packing."""
        parities = self.encode(batch.inputs)
        losses = []
        for i, model in enumerate(self.parity_models):
            assert isinstance(model, PackedModel)
            losses.append(distillation(model.logits(parities[:, i]), batch.answers))
        return torch.stack(losses).mean()

    def default_loss(self, batch: Batch) -> Tensor:
        """The loss of one softened distribution for all."""
        softened = batch.answers / _TEMPERATURE
        return default_distance("kl", softened, batch.labels) * _TEMPERATURE**2


class PackedModel(nn.Module):
    """What a parity worker runs: the same perceptron on the features of each input, the answers packed."""

    def __init__(self, k: int, size: int, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.k, self.size, self.shapes = k, size, shapes
        self.layers = nn.Sequential(
            nn.Dropout(_DROPOUT),
            nn.Linear(size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, shapes.output_size),
        )

    def logits(self, parities: Tensor) -> Tensor:
        """Answers `(n, k, ...)` from parities `(n, ...)`."""
        features = parities.flatten(1)[:, : self.k * self.size].reshape(-1, self.k, self.size)
        answers: Tensor = self.layers(features)
        return answers.reshape(-1, self.k, *self.shapes.output)

    def forward(self, parities: Tensor) -> Tensor:
        """Packed answers `(n, ...)`."""
        return pack(self.logits(parities))


def distillation(logits: Tensor, answers: Tensor) -> Tensor:
    """The mean divergence between softened distributions, on the scale of gradients at temperature one."""
    told, wanted = logits / _TEMPERATURE, answers / _TEMPERATURE
    return distance("kl", told, wanted).mean() * _TEMPERATURE**2


def affordable_width(multiply_adds: int, k: int, shapes: Shapes) -> int:
    """The widest hidden layers, 16 to 512 and a multiple of 8, with which a parity model costs no more.

    Solves `k (s w + w^2 + w c) = multiply_adds` for `w`, where `s` features give `c` numbers.
    """
    linear = shapes.input_size // k + shapes.output_size
    width = (-linear + math.sqrt(linear**2 + 4 * multiply_adds / k)) / 2
    return max(_WIDTHS[0], min(_WIDTHS[1], int(width) // 8 * 8))
