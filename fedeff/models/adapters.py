"""LoRA: small trained additions to frozen weights (Hu et al., arXiv:2106.09685)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.rng import generator
from fedeff.models.composed import Composed, Made, can_compose, composable, freeze, put_in
from fedeff.models.normalisation import PartialGroupNorm

__all__ = ["LoRA", "LowRankAddition"]

EXTRAS = ("biases", "norms", "head")
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, PartialGroupNorm)


@dataclass(frozen=True)
class LowRankAddition:
    """`W0 + scale * B A` (section 4.1); a kernel (O, I, height, width) is a matrix of O rows."""

    scale: float

    def weight(self, arrays: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight of `base` and of factors `b` (outputs, rank) and `a` (rank, inputs)."""
        base = arrays["base"]
        return base + (self.scale * (arrays["b"] @ arrays["a"])).view(base.shape)


@dataclass(frozen=True)
class LoRA:
    """Adapters on dense, convolutional and recurrent layers; all else is frozen and never travels.

    What is added to a weight is `alpha / rank * B A`, with B zero at the start; `alpha` 0 stands for the
    rank. `extras` are trained as they are, beside the adapters: "biases", "norms", and the "head", which is
    the last layer. A layer that would have no fewer trained entries is trained as it is, too; embeddings are
    frozen. Server and clients must adapt the same weights: those of one seed, or of one file.

    For models that start somewhere: a sum of few rank-one terms on random weights learns little. And
    the mean of clients' factors is not the mean of what they add, `mean(B) mean(A) != mean(B A)`; with
    `freeze_a` A stays as it was drawn and the two are equal (FFA-LoRA, Sun et al., arXiv:2403.12313).
    """

    rank: int = 4
    alpha: float = 0.0
    freeze_a: bool = False
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank!r}; an adapter's must be at least 1")
        if not 0 <= self.alpha < math.inf:
            raise ConfigError(f"lora-alpha is {self.alpha!r}; it must be above 0, or 0 for the rank")
        for name in self.extras:
            if name not in EXTRAS:
                raise unknown_name("part in lora-extras", name, EXTRAS)

    def apply(self, module: nn.Module, seed: int = 0) -> nn.Module:
        """A copy of a module with the same outputs, of which only adapters and extras are trained and sent.

        A is drawn from `seed` with the variance 1 / inputs.

        Raises:
            ConfigError: if the module has no layer that can be adapted.

        >>> from fedeff.models import build
        >>> sum(parameter.numel() for parameter in LoRA(rank=4).apply(build("mlp")).parameters())
        3688
        """
        adapted, layers = copy.deepcopy(module), composable(module)
        if not layers:
            raise ConfigError(
                f"{type(module).__name__} has no layer that can be adapted; LoRA is for dense, convolutional "
                "and recurrent ones"
            )
        head = list(layers)[-1] if "head" in self.extras else None
        for name, layer in layers.items():
            made = {} if name == head else self._weights(name, layer, seed)
            adapted = put_in(adapted, name, Composed(layer, made)) if made else adapted
        freeze(adapted, {key for key, _ in adapted.named_parameters()} - self._trained(adapted, head))
        return adapted

    def _weights(self, name: str, layer: nn.Module, seed: int) -> dict[str, Made]:
        made = {}
        for own, weight in layer.named_parameters(recurse=False):
            if weight.dim() > 1 and self._entries(weight) < weight.numel():
                made[own] = self._adapter(weight.detach(), f"{name}.{own}", seed)
        return made

    def _entries(self, weight: torch.Tensor) -> int:
        """How many entries the trained factors of a weight have."""
        outputs, inputs = weight.flatten(1).shape
        return self.rank * (outputs if self.freeze_a else outputs + inputs)

    def _adapter(self, weight: torch.Tensor, key: str, seed: int) -> Made:
        outputs, inputs = weight.flatten(1).shape
        drawn = generator(seed, purpose=f"lora {key}").standard_normal((self.rank, inputs))
        a = torch.from_numpy(drawn / math.sqrt(inputs)).to(weight)
        b = weight.new_zeros(outputs, self.rank)
        addition = LowRankAddition((self.alpha or self.rank) / self.rank)
        if self.freeze_a:
            return Made(addition, trained={"b": b}, frozen={"base": weight, "a": a})
        return Made(addition, trained={"a": a, "b": b}, frozen={"base": weight})

    def _trained(self, adapted: nn.Module, head: str | None) -> set[str]:
        """The keys of the parameters that are not frozen."""
        return {
            f"{name}.{own}" if name else own
            for name, owner in adapted.named_modules()
            for own, _ in owner.named_parameters(recurse=False)
            if name == head or self._is_trained(owner, own)
        }

    def _is_trained(self, owner: nn.Module, own: str) -> bool:
        if isinstance(owner, _NORMS):
            return "norms" in self.extras
        if own.startswith("bias"):
            return "biases" in self.extras
        # A layer that is not composed was left whole because an adapter would have been no smaller.
        return isinstance(owner, Composed) or can_compose(owner)
