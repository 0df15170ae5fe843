"""Character models: an embedding, one recurrent layer, a dense head at every position.

Torch's own GRU and LSTM are fast but cannot be vectorised over clients (`torch.func.vmap` has no
rule for them). Each layer here is torch's own, and unrolls itself in plain operations when its
weights have been swapped for those of many clients.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.models.units import Slice, Units

__all__ = ["CharacterModel", "Gru", "Lstm"]

_EMBEDDING, _HIDDEN = 16, 128
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # in torch's order


class Gru(nn.GRU):
    """`torch.nn.GRU` (Cho et al., arXiv:1406.1078) of one layer that `vmap` can go through."""

    weight_ih_l0: torch.Tensor
    weight_hh_l0: torch.Tensor
    bias_ih_l0: torch.Tensor
    bias_hh_l0: torch.Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """States (n, length, hidden) for inputs (n, length, inputs), from a zero state."""
        if _holds_own_weights(self):
            states: torch.Tensor = super().forward(x)[0]
            return states
        return self.states(x, {name: getattr(self, name) for name in _WEIGHTS}, fused=False)

    def states(self, x: torch.Tensor, weights: Mapping[str, torch.Tensor], *, fused: bool) -> torch.Tensor:
        """The same by other weights than its own; `fused` is faster, but `vmap` has no rule for it."""
        if not fused:
            return self._unrolled(x, *(weights[name] for name in _WEIGHTS))
        begin, given = x.new_zeros(1, x.shape[0], self.hidden_size), [weights[name] for name in _WEIGHTS]
        states: torch.Tensor = torch.gru(x, begin, given, True, 1, 0.0, self.training, False, True)[0]
        return states

    def _unrolled(
        self,
        x: torch.Tensor,
        weight_ih: torch.Tensor,
        weight_hh: torch.Tensor,
        bias_ih: torch.Tensor,
        bias_hh: torch.Tensor,
    ) -> torch.Tensor:
        gates, new = slice(0, 2 * self.hidden_size), slice(2 * self.hidden_size, None)
        given = F.linear(x, weight_ih, bias_ih)
        state, states = x.new_zeros(x.shape[0], self.hidden_size), []
        for seen in given.unbind(1):
            recalled = F.linear(state, weight_hh, bias_hh)
            reset, update = torch.sigmoid(seen[:, gates] + recalled[:, gates]).chunk(2, dim=1)
            candidate = torch.tanh(seen[:, new] + reset * recalled[:, new])
            state = candidate + update * (state - candidate)
            states.append(state)
        return torch.stack(states, 1)


class Lstm(nn.LSTM):
    """`torch.nn.LSTM` (Hochreiter & Schmidhuber, 1997) of one layer that `vmap` can go through."""

    weight_ih_l0: torch.Tensor
    weight_hh_l0: torch.Tensor
    bias_ih_l0: torch.Tensor
    bias_hh_l0: torch.Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """States (n, length, hidden) for inputs (n, length, inputs), from a zero state."""
        if _holds_own_weights(self):
            states: torch.Tensor = super().forward(x)[0]
            return states
        return self.states(x, {name: getattr(self, name) for name in _WEIGHTS}, fused=False)

    def states(self, x: torch.Tensor, weights: Mapping[str, torch.Tensor], *, fused: bool) -> torch.Tensor:
        """The same by other weights than its own; `fused` is faster, but `vmap` has no rule for it."""
        if not fused:
            return self._unrolled(x, *(weights[name] for name in _WEIGHTS))
        begin, given = x.new_zeros(1, x.shape[0], self.hidden_size), [weights[name] for name in _WEIGHTS]
        states: torch.Tensor = torch.lstm(x, (begin, begin), given, True, 1, 0.0, self.training, False, True)[
            0
        ]
        return states

    def _unrolled(
        self,
        x: torch.Tensor,
        weight_ih: torch.Tensor,
        weight_hh: torch.Tensor,
        bias_ih: torch.Tensor,
        bias_hh: torch.Tensor,
    ) -> torch.Tensor:
        given = F.linear(x, weight_ih, bias_ih + bias_hh)
        state = cell = x.new_zeros(x.shape[0], self.hidden_size)
        states = []
        for seen in given.unbind(1):
            write, keep, new, show = (seen + F.linear(state, weight_hh)).chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
            state = torch.sigmoid(show) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1)


class CharacterModel(nn.Module):
    """Logits for the next character at every position: embedding of 16, one layer of 128, dense head.

    With a GRU and 90 characters 69,114 parameters, with an LSTM 87,802.
    """

    def __init__(self, layer: type[Gru] | type[Lstm], classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, _EMBEDDING)
        self.recurrent = layer(_EMBEDDING, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (n, length, classes) of int64 tokens (n, length)."""
        logits: torch.Tensor = self.head(self.recurrent(self.embedding(tokens)))
        return logits

    def units(self) -> tuple[Units, ...]:
        """The hidden units: what makes each gate of one, and what reads its state."""
        gates = self.recurrent.weight_hh_l0.shape[0] // self.recurrent.weight_hh_l0.shape[1]
        return (
            Units(
                "recurrent",
                "hidden",
                tuple(Slice(f"recurrent.{name}", 0, blocks=gates) for name in _WEIGHTS),
                (Slice("recurrent.weight_hh_l0", 1), Slice("head.weight", 1)),
            ),
        )

    def blocks(self) -> tuple[str, ...]:
        """None: there are no shortcuts."""
        return ()


def _holds_own_weights(layer: nn.RNNBase) -> bool:
    # `torch.func.functional_call` puts plain tensors where a module's own weights are Parameters.
    return isinstance(layer.weight_ih_l0, nn.Parameter)
