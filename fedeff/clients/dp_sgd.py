"""DP-SGD: each row's gradient clipped, and noise on their sum, in local training."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.core.errors import ConfigError

__all__ = ["DpSgd", "row_gradients"]

_STACK_BYTES = 64 << 20  # of row gradients that are held at a time


@dataclass(frozen=True)
class DpSgd:
    """The gradient of Abadi et al. (arXiv:1607.00133, algorithm 1): clipped by row, noisy, then the mean.

    Each row's gradient is clipped to the L2 norm `clipping_norm` over all parameters; the sum over the
    batch gets Gaussian noise of standard deviation `noise_multiplier * clipping_norm` on every entry,
    and is divided by the batch's number of rows.

    Batches are those of the plain loop: fixed in size, each pass a new order of all rows, drawn from a
    seed that is on record. The paper's account of random, secret batches (and Opacus's, for Poisson
    sampling) promises more than that holds; see `fedeff.audit.defences.epsilon`. Unless `seeded`, noise comes
    from the operating system's randomness; a seed that the server knows would let it take the noise off.

    Not for models that mix rows (BatchNorm), and several times slower than plain training.
    """

    clipping_norm: float
    noise_multiplier: float = 0.0
    seeded: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(f"dp-sgd-clipping-norm is {self.clipping_norm}, expected a positive number")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError(f"dp-sgd-noise-multiplier is {self.noise_multiplier}, expected 0 or more")

    @property
    def std(self) -> float:
        """The noise's standard deviation on each entry of a batch's sum of gradients."""
        return self.noise_multiplier * self.clipping_norm

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """What noise is drawn from: `rng`'s child if seeded, else the system's randomness."""
        return rng.spawn(1)[0] if self.seeded else np.random.default_rng(secrets.randbits(256))

    def gradient(
        self,
        model: nn.Module,
        parameters: Sequence[torch.Tensor],
        x: torch.Tensor,
        y: torch.Tensor,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The batch's mean loss, and its private gradient by parameter; noise is drawn from `rng`.

        Raises ConfigError for a model that mixes rows.
        """
        loss, sums = self.clipped_sum(model, parameters, x, y)
        for total in sums if self.std else ():
            drawn = torch.from_numpy(rng.normal(0.0, self.std, tuple(total.shape)))
            total.add_(drawn.to(total.device, total.dtype))
        return loss, tuple(total.div_(len(y)) for total in sums)

    def clipped_sum(
        self, model: nn.Module, parameters: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The batch's mean loss, and the sum of its rows' gradients, each clipped, by parameter."""
        sums = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        loss = torch.zeros((), dtype=parameters[0].dtype, device=y.device)
        rows = max(1, _STACK_BYTES // max(1, sum(p.nbytes for p in parameters)))
        for some_x, some_y in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
            losses, gradients = row_gradients(model, parameters, some_x, some_y)
            loss += losses.sum() / len(y)
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
            shrink = (self.clipping_norm / norms.clamp_min(1e-30)).clamp_max(1.0)
            for total, gradient in zip(sums, gradients, strict=True):
                total += torch.tensordot(shrink, gradient, dims=1)
        return loss, sums


def row_gradients(
    model: nn.Module, parameters: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Each row's loss (rows,) and gradient (rows, *shape) by parameter: what a batch of one would give.

    Dropout draws for each row. Raises ConfigError for a model that mixes rows.
    """
    _check(model)
    places = {id(p): place for place, p in enumerate(parameters)}
    names = {places[id(p)]: name for name, p in model.named_parameters() if id(p) in places}
    own = {names[place]: p.detach() for place, p in enumerate(parameters)}

    def loss(weights: dict[str, torch.Tensor], one_x: torch.Tensor, one_y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, weights, (one_x[None],))
        return F.cross_entropy(logits.flatten(0, -2), one_y[None].flatten())

    each = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
    gradients, losses = each(own, x, y)
    return losses.detach(), [gradients[name].detach() for name in own]


def _check(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ConfigError(
                "the model has BatchNorm, in which a row's gradient depends on the batch's other rows, so "
                "DP-SGD cannot clip it; take a model with GroupNorm, such as resnet20"
            )
