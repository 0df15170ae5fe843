"""Models made of dense layers alone."""

import math

import torch
import torch.nn.functional as F
from torch import nn

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


class Logistic(nn.Module):
    """Multinomial logistic regression; 7,850 parameters for (1, 28, 28) and 10 classes. Convex."""

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(input_shape), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of inputs (n, ...)."""
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits
