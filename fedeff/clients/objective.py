"""What a client minimises in place of the cross-entropy of its labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

__all__ = ["Objective", "Objectives"]


@dataclass(frozen=True)
class Objectives:
    """A batch's mean loss, to be differentiated, and what else is to be told of the batch.

    `measures` are scalars without a graph; replies carry their means over the samples trained on.
    """

    loss: torch.Tensor
    measures: Mapping[str, torch.Tensor] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """The loss of one batch.

    A value: frozen, hashable and picklable, as `LocalTraining` is. The measures are the same ones for
    every batch.
    """

    def __call__(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator
    ) -> Objectives:
        """The mean loss of inputs (n, ...) and labels (n, ...); what is random is drawn from `rng`."""
