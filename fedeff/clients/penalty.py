"""What a client adds to its loss to give its weights a form, such as groups that are zero."""

from typing import Protocol, runtime_checkable

import torch

__all__ = ["Penalty"]


@runtime_checkable
class Penalty(Protocol):
    """A term of the local loss that depends on the weights alone, and what follows each step.

    A value: frozen, hashable and picklable, as `LocalTraining` is, without state from step to step.
    Both methods get tensors by state key (such as `conv1.weight`), those of the trained parameters
    alone; they work in place, under `torch.no_grad`, and reach neither buffers nor frozen
    parameters. A term that needs no second method leaves it empty.
    """

    def add_to(self, weights: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        """Add the term's gradient at `weights`, which stay as they are, to the loss's `gradients`.

        Before weight decay, the FedProx term and the optimizer, which see the sum.
        """

    def after_step(self, weights: dict[str, torch.Tensor]) -> None:
        """Change the weights that a step has given, such as to zero what is small."""
