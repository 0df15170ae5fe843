"""The answers of `k` classifiers in the numbers of one: each in digits of its own."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedeff.core.errors import ConfigError

__all__ = ["levels_of", "pack", "unpack"]

_EXACT = 1 << 24  # float32 holds every whole number below
_SCALE = 2.0  # nats: gaps well beyond it look alike, smaller ones are told apart


def levels_of(k: int) -> int:
    """How many values a digit takes where a float32 holds `k` digits.

    >>> [levels_of(k) for k in (1, 2, 4, 10, 24)]
    [16777216, 4096, 64, 5, 2]

    Raises:
        ConfigError: beyond 24, where a digit could not even tell the likeliest class from the others.
    """
    levels = round(math.pow(_EXACT, 1 / k))
    while math.pow(levels, k) > _EXACT:
        levels -= 1
    if levels < 2:
        raise ConfigError(f"k is {k}, expected at most 24: float32 has room for as many answers")
    return levels


def pack(logits: Tensor) -> Tensor:
    """Whole numbers `(n, ..., classes)` below 2**24 that hold `(n, k, ..., classes)` logits.

    Of each answer the likeliest class has the highest level, alone, and every other one that of its gap to
    it, finer where gaps are small: so the class is exact at any `k`, and probabilities are rounded.
    """
    k = logits.shape[1]
    levels = levels_of(k)
    best = F.one_hot(logits.argmax(-1), logits.shape[-1]).bool()
    nearness = torch.exp((logits - logits.amax(-1, keepdim=True)) / _SCALE)  # in (0, 1]
    others = (nearness * (levels - 1)).floor().clamp(0, levels - 2)
    digits = others.masked_fill(best, levels - 1).double()  # float32 powers would round
    weights = levels ** torch.arange(k, dtype=torch.float64, device=logits.device)
    return torch.einsum("k,nk...->n...", weights, digits).to(logits.dtype)


def unpack(packed: Tensor, k: int) -> Tensor:
    """Log-probabilities `(n, k, ..., classes)` of what `pack` made `(n, ..., classes)` of.

    Anything else is read as the nearest whole number in range.
    """
    levels = levels_of(k)
    rest = packed.double().round().clamp(0, levels**k - 1)
    digits = []
    for _ in range(k):
        digits.append(rest.remainder(levels))
        rest = (rest / levels).floor()
    level = torch.stack(digits, 1).float()
    nearness = ((level + 0.5) / (levels - 1)).clamp(max=1)
    return F.log_softmax(_SCALE * nearness.log(), -1)
