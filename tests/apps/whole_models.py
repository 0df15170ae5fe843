"""Models of the table as they are, and inputs that they read."""

import torch
from torch import nn

from fedeff.models import build, describe


def built(name: str) -> nn.Module:
    """A model for its usual input."""
    card = describe(name)
    return build(name, classes=card.classes, input_shape=card.input_shape)


def inputs_of(name: str, count: int = 3) -> torch.Tensor:
    """A few inputs, short ones of characters."""
    card, generator = describe(name), torch.Generator().manual_seed(7)
    if card.task == "classify":
        return torch.rand(count, *card.input_shape, generator=generator)
    return torch.randint(card.classes, (count, 6), generator=generator)


def size(module: nn.Module) -> int:
    """How many entries its parameters have."""
    return sum(parameter.numel() for parameter in module.parameters())
