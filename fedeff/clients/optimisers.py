"""SGD, momentum, Adam, AdamW and SLIM-QN over lists of tensors, with weight decay and the FedProx term.

All rules but SLIM-QN's are elementwise, so one client's tensors and the stacked tensors of many
clients go through the same code; they equal `torch.optim` with the same settings.
"""

import math
from collections.abc import Sequence

import torch

from fedeff.clients.slim_qn import LayerCurvature
from fedeff.clients.training import Array, LocalTraining, Moments
from fedeff.clients.weights import copy_into

__all__ = ["Optimiser"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim's defaults for Adam and AdamW
_MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2, "slim-qn": 1}
Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


class Optimiser:
    """Updates tensors in place, one `step` per batch; its moments begin at zero, or where `resume` says.

    `parameters` are the received weights: FedProx pulls back to their values at this moment. They
    are one client's, or the stacked ones of so many `clients`, which SLIM-QN cannot do; `keys` name
    them, in order.
    """

    def __init__(
        self,
        training: LocalTraining,
        keys: Sequence[str],
        parameters: Tensors,
        clients: int | None = None,
    ) -> None:
        self._training, self._stacked = training, clients is not None
        self._keys = tuple(keys)
        self._taken = 0
        self._resumed = [0] * (clients or 1)  # steps that each client took in earlier rounds
        self._before = self._resumed  # those of the clients that are still at work
        moments = _MOMENTS[training.optimizer]
        self._all = [[torch.zeros_like(p) for p in parameters] for _ in range(moments)]
        self._moments = self._all
        self._received = [p.detach().clone() for p in parameters] if training.prox_mu else []
        self._curvature = (
            LayerCurvature(
                keys,
                parameters,
                history=training.qn_history,
                interval=training.qn_interval,
                beta=training.qn_beta,
                damping=training.qn_damping,
            )
            if training.optimizer == "slim-qn"
            else None
        )

    def resume(self, kept: Moments, client: int = 0) -> None:
        """Go on from a client's moments, if this optimizer gathered them."""
        kept = kept.of(self._training.optimizer)
        self._resumed[client] = kept.steps
        own = self._of(client)
        for tensors, arrays in zip(own, kept.arrays, strict=False):
            for key, tensor in zip(self._keys, tensors, strict=True):
                copy_into(tensor, arrays[key])
        if self._curvature is not None:
            self._curvature.resume(kept.arrays[len(own) :])

    def gathered(self, steps: int, client: int = 0) -> Moments:
        """A client's moments after so many steps in this round; not copied, so for after the last step."""
        arrays: list[dict[str, Array]] = [
            {key: tensor.contiguous().cpu().numpy() for key, tensor in zip(self._keys, tensors, strict=True)}
            for tensors in self._of(client)
        ]
        if self._curvature is not None:
            arrays += self._curvature.gathered()
        return Moments(self._training.optimizer, self._resumed[client] + steps, tuple(arrays))

    def _of(self, client: int) -> list[list[torch.Tensor]]:
        if not self._stacked:
            return self._all
        return [[tensor[client] for tensor in tensors] for tensors in self._all]

    def narrow(self, clients: int) -> None:
        """Go on with the first so many of the stacked clients."""
        self._moments = [[m[:clients] for m in moments] for moments in self._all]
        self._received = [r[:clients] for r in self._received]
        self._before = self._resumed[:clients]

    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Move the parameters by one step against the gradients, which are left as they are."""
        self._taken += 1
        with torch.no_grad():
            gradients = self._regularised(parameters, gradients)
            if self._training.optimizer in ("adam", "adamw"):
                self._adam(parameters, gradients)
                return
            if self._curvature is not None:
                step = self._before[0] + self._taken
                gradients = self._curvature.directions(parameters, gradients, step)
            if self._training.momentum:
                (velocity,) = self._moments
                torch._foreach_mul_(velocity, self._training.momentum)
                torch._foreach_add_(velocity, gradients)
                gradients = velocity
            torch._foreach_add_(parameters, gradients, alpha=-self._training.learning_rate)

    def _regularised(self, parameters: Tensors, gradients: Tensors) -> Tensors:
        """The gradients with the terms of the loss that depend on the weights alone.

        The decay of AdamW is none of them: it goes straight to the weights.
        """
        decay = self._training.weight_decay
        if decay and self._training.optimizer != "adamw":
            gradients = torch._foreach_add(gradients, parameters, alpha=decay)
        if self._training.prox_mu:
            moved = torch._foreach_sub(parameters, self._received)
            gradients = torch._foreach_add(gradients, moved, alpha=self._training.prox_mu)
        if decay and self._training.optimizer == "adamw":
            torch._foreach_mul_(parameters, 1 - self._training.learning_rate * decay)
        return gradients

    def _adam(self, parameters: Tensors, gradients: Tensors) -> None:
        """Kingma & Ba, arXiv:1412.6980, algorithm 1."""
        mean, square = self._moments
        torch._foreach_lerp_(mean, gradients, 1 - _BETA1)
        torch._foreach_mul_(square, _BETA2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _BETA2)
        scale = torch._foreach_sqrt(square)
        steps = [before + self._taken for before in self._before]
        if len(set(steps)) > 1:
            self._move_each(parameters, mean, scale, steps)
            return
        torch._foreach_div_(scale, math.sqrt(1 - _BETA2 ** steps[0]))
        torch._foreach_add_(scale, _EPSILON)
        rate = self._training.learning_rate / (1 - _BETA1 ** steps[0])
        torch._foreach_addcdiv_(parameters, mean, scale, -rate)

    def _move_each(self, parameters: Tensors, mean: Tensors, scale: Tensors, steps: Sequence[int]) -> None:
        """Adam's step where stacked clients have taken different numbers of steps before."""
        roots = [math.sqrt(1 - _BETA2**taken) for taken in steps]
        rates = [self._training.learning_rate / (1 - _BETA1**taken) for taken in steps]
        for parameter, first, second in zip(parameters, mean, scale, strict=True):
            second.div_(_per_client(roots, parameter)).add_(_EPSILON)
            parameter.addcdiv_(first * _per_client(rates, parameter), second, value=-1)


def _per_client(factors: Sequence[float], stacked: torch.Tensor) -> torch.Tensor:
    """One factor per stacked client, shaped to multiply all of its entries."""
    return stacked.new_tensor(factors).view(-1, *[1] * (stacked.dim() - 1))
