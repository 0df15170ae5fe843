"""The published learned code: encoder and decoder trained through the frozen function.

Kosaian, Rashmi, Venkataraman, "Learning a Code: Machine Learning for Approximate Non-Linear Coded
Computation", arXiv:1806.01259, section 4. The paper's networks for one parity, here for any number.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fedeff.codes.learned.losses import Loss, default_distance, distance, over_missing
from fedeff.codes.learned.network import Batch, CodeNetwork, Shapes
from fedeff.core.errors import ConfigError

__all__ = ["ENCODERS", "Encoder", "PublishedNetwork"]

Encoder = Literal["mlp", "conv"]
ENCODERS: tuple[str, ...] = get_args(Encoder)
_WIDTH = 20  # channels of the convolutional encoder for each input of a group
_DILATIONS = (1, 2, 4, 8, 1)


class PublishedNetwork(CodeNetwork):
    """An encoder that sees each channel apart, and a decoder on all outputs, those erased set to zero."""

    def __init__(self, k: int, r: int, shapes: Shapes, encoder: Encoder, loss: Loss) -> None:
        super().__init__(k, r, shapes)
        self._loss = loss
        _, plane = shapes.planes
        self.encoder = _conv_encoder(k, r, plane) if encoder == "conv" else _mlp_encoder(k, r, plane)
        self.decoder = _decoder(k, r, shapes.output_size)

    def encode(self, inputs: Tensor) -> Tensor:
        """The parities of each channel, from that channel of the inputs."""
        channels, plane = self.shapes.planes
        apart = inputs.reshape(len(inputs), self.k, channels, *plane).transpose(1, 2).flatten(0, 1)
        parities: Tensor = self.encoder(apart)
        joined = parities.reshape(len(inputs), channels, self.r, *plane).transpose(1, 2)
        return joined.reshape(len(inputs), self.r, *self.shapes.input)

    def decode(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """Estimates of all answers from what is left under each mask."""
        left = outputs.flatten(2) * masks[:, None, :, None]
        estimates: Tensor = self.decoder(left.flatten(2))
        return estimates.reshape(len(masks), len(outputs), self.k, *self.shapes.output)

    def loss(self, batch: Batch, function: nn.Module, masks: Tensor) -> Tensor:
        """The mean over patterns and the answers that each erases."""
        outputs = torch.cat([batch.answers, self.answer(self.encode(batch.inputs), function)], 1)
        estimates = self.decode(outputs, masks)
        apart = distance(
            self._loss,
            estimates,
            batch.answers.expand_as(estimates),
            batch.labels.expand(estimates.shape[:-1]),
        )
        return over_missing(apart, masks)

    def default_loss(self, batch: Batch) -> Tensor:
        """The loss of one answer for all."""
        return default_distance(self._loss, batch.answers, batch.labels)


def _mlp_encoder(k: int, r: int, plane: tuple[int, ...]) -> nn.Module:
    size = math.prod(plane)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(k * size, k * size), nn.ReLU(), nn.Linear(k * size, r * size)
    )


def _conv_encoder(k: int, r: int, plane: tuple[int, ...]) -> nn.Module:
    if len(plane) != 2:
        raise ConfigError(f"the encoder 'conv' reads images, got inputs of {plane}; take 'mlp'")
    width = _WIDTH * k
    layers: list[nn.Module] = [nn.Conv2d(k, width, 3, padding=1), nn.ReLU()]
    for dilation in _DILATIONS:
        layers += [nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, r, 1))


def _decoder(k: int, r: int, answers: int) -> nn.Module:
    wide, narrow = (k + r) * answers, k * answers
    return nn.Sequential(
        nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, narrow)
    )
