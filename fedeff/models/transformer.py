"""A causal transformer for characters or tokens, in plain operations that `vmap` can go through.

Torch's own attention layers hold the projections of queries, keys and values in one array and take fast
paths that cannot be vectorised over clients, nor differentiated twice. These are three dense layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models.units import Slice, Units

__all__ = ["Transformer"]

_GROWTH = 2  # hidden units of the dense part, by the width


class Transformer(nn.Module):
    """Logits for the next token at every position, by layers of causal attention (arXiv:1706.03762).

    Tokens and positions up to `length` are embedded in `width` numbers; each of `layers` layers adds
    attention of `heads` heads and two dense layers with a GELU between them (Hendrycks & Gimpel,
    arXiv:1606.08415), each behind a layer norm of what it reads (Xiong et al., arXiv:2002.04745).
    298,330 parameters for 80 characters out of 90: about those of the ResNet-20, not for quick runs.
    """

    def __init__(
        self, classes: int, length: int, *, width: int = 128, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"a transformer {width} wide got {heads} heads; their number must divide its width"
            )
        self.length = length
        self.tokens, self.positions = nn.Embedding(classes, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (n, length, classes) of int64 tokens (n, length), which may be shorter than `length`."""
        length = tokens.shape[-1]
        if length > self.length:
            raise ConfigError(
                f"a transformer with {self.length} positions got {length} tokens; build a longer one"
            )
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        logits: torch.Tensor = self.head(self.norm(self.layers(x)))
        return logits

    def units(self) -> tuple[Units, ...]:
        """The hidden units of the dense parts; heads and the width stay as they are."""
        found = []
        for block in self.blocks():
            if block.endswith("dense"):
                made = (Slice(f"{block}.up.weight", 0), Slice(f"{block}.up.bias", 0))
                found.append(Units(f"{block}.up", "neuron", made, (Slice(f"{block}.down.weight", 1),)))
        return tuple(found)

    def blocks(self) -> tuple[str, ...]:
        """The attention and the dense part of each layer, as far as they are there."""
        return tuple(name for name, one in self.named_modules() if isinstance(one, _Attention | _Dense))


class _Layer(nn.Sequential):
    """Attention, then the dense part."""

    attention: nn.Module
    dense: nn.Module

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.dense = _Attention(width, heads), _Dense(width)


class _Attention(nn.Module):
    """What each position takes from those up to it, beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        # A bias of keys would shift all scores of a query alike: softmax takes it out again.
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.norm(x)
        query, key, value = (self._split(one(seen)) for one in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        ahead = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(ahead, -math.inf).softmax(-1)
        added: torch.Tensor = self.out((weights @ value).transpose(-2, -3).flatten(-2))
        return x + added

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """From (n, length, width) to (n, heads, length, width of a head)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-2, -3)

    def is_silent(self, threshold: float) -> bool:
        return _is_silent(self.out, threshold)

    def bypassed(self) -> nn.Module:
        return nn.Identity()


class _Dense(nn.Module):
    """Two dense layers at each position on its own, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, _GROWTH * width), nn.Linear(_GROWTH * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.down(F.gelu(self.up(self.norm(x))))
        return x + added

    def is_silent(self, threshold: float) -> bool:
        return _is_silent(self.down, threshold)

    def bypassed(self) -> nn.Module:
        return nn.Identity()


def _is_silent(last: nn.Linear, threshold: float) -> bool:
    """Whether nothing comes out of a part whose last layer this is."""
    return all(float(values.detach().abs().amax()) <= threshold for values in (last.weight, last.bias))
