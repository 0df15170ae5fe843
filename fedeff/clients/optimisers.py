"""SGD, momentum and Adam over lists of tensors, with weight decay and the FedProx term.

The rules are elementwise, so one client's tensors and the stacked tensors of many clients go
through the same code. They equal `torch.optim` with the same settings.
"""

import math

import torch

from fedeff.clients.training import LocalTraining

__all__ = ["Optimiser"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults
Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


class Optimiser:
    """Updates tensors in place, one `step` per batch; its state begins at zero with each round.

    `parameters` are the received weights: FedProx pulls back to their values at this moment.
    """

    def __init__(self, training: LocalTraining, parameters: Tensors) -> None:
        self._training = training
        self._taken = 0
        moments = {"sgd": 0, "momentum": 1, "adam": 2}[training.optimizer]
        self._moments = [[torch.zeros_like(p) for p in parameters] for _ in range(moments)]
        self._received = [p.detach().clone() for p in parameters] if training.prox_mu else []

    def narrow(self, clients: int) -> None:
        """Go on with the first so many of the stacked clients."""
        self._moments = [[m[:clients] for m in moments] for moments in self._moments]
        self._received = [r[:clients] for r in self._received]

    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Move the parameters by one step against the gradients, which are left as they are."""
        self._taken += 1
        with torch.no_grad():
            gradients = self._regularised(parameters, gradients)
            if self._training.optimizer == "adam":
                self._adam(parameters, gradients)
                return
            if self._training.optimizer == "momentum":
                (velocity,) = self._moments
                torch._foreach_mul_(velocity, self._training.momentum)
                torch._foreach_add_(velocity, gradients)
                gradients = velocity
            torch._foreach_add_(parameters, gradients, alpha=-self._training.learning_rate)

    def _regularised(self, parameters: Tensors, gradients: Tensors) -> Tensors:
        if self._training.weight_decay:
            gradients = torch._foreach_add(gradients, parameters, alpha=self._training.weight_decay)
        if self._training.prox_mu:
            moved = torch._foreach_sub(parameters, self._received)
            gradients = torch._foreach_add(gradients, moved, alpha=self._training.prox_mu)
        return gradients

    def _adam(self, parameters: Tensors, gradients: Tensors) -> None:
        """Kingma & Ba, arXiv:1412.6980, algorithm 1."""
        mean, square = self._moments
        torch._foreach_lerp_(mean, gradients, 1 - _BETA1)
        torch._foreach_mul_(square, _BETA2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _BETA2)
        scale = torch._foreach_sqrt(square)
        torch._foreach_div_(scale, math.sqrt(1 - _BETA2**self._taken))
        torch._foreach_add_(scale, _EPSILON)
        rate = self._training.learning_rate / (1 - _BETA1**self._taken)
        torch._foreach_addcdiv_(parameters, mean, scale, -rate)
