"""Models made of dense layers alone."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.models.units import Slice, Units

__all__ = ["Logistic", "Perceptron"]


class Perceptron(nn.Module):
    """One hidden layer of 64 rectified units; 50,890 parameters for (1, 28, 28) and 10 classes."""

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(math.prod(input_shape), 64), nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of inputs (n, ...)."""
        logits: torch.Tensor = self.fc2(F.relu_(self.fc1(x.flatten(1))))
        return logits

    def units(self) -> tuple[Units, ...]:
        """The hidden units."""
        made = (Slice("fc1.weight", 0), Slice("fc1.bias", 0))
        return (Units("fc1", "neuron", made, (Slice("fc2.weight", 1),)),)

    def blocks(self) -> tuple[str, ...]:
        """None: there are no shortcuts."""
        return ()


class Logistic(nn.Module):
    """Multinomial logistic regression; 7,850 parameters for (1, 28, 28) and 10 classes. Convex."""

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(input_shape), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of inputs (n, ...)."""
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits

    def units(self) -> tuple[Units, ...]:
        """None: there are inputs and classes alone."""
        return ()

    def blocks(self) -> tuple[str, ...]:
        """None: there are no shortcuts."""
        return ()
