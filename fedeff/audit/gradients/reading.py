"""What the layers of a network for text read, up to the layer that is asked for and no further.

The gradient of a dense layer's weight is a sum of outer products with what the layer read, so its rows lie
in the span of those. Here is what a layer would have read of candidate tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["ReadLayer", "Reading"]

_SAME = 1e-9  # beside the largest number: what differs by less does so by rounding


@dataclass(frozen=True)
class ReadLayer:
    """Weights that read the same vectors, one a position, each as wide as the weights have columns.

    `alone`: what is read at a position depends on the token there and nothing before it, else on all
    tokens up to it.
    """

    keys: tuple[str, ...]
    width: int
    alone: bool

    def positions(self, length: int, known: Sequence[str]) -> int:
        """How many positions leave a trace in the known ones of its weights.

        The state after the last token is read by no recurrent weight.
        """
        return length if any("weight_hh" not in key for key in known) else length - 1


class Reading:
    """A network for tokens (n, length) below `classes`, as far as its layers look only backwards.

    Dense layers are found by torch's own modules, and so are recurrent ones of a single layer. What looks
    ahead is left out. `layers` come in the order in which the network reaches them.
    """

    def __init__(self, network: nn.Module, length: int, classes: int) -> None:
        self._network = network.double().eval()
        self._hooked = dict(_hooked(self._network))
        probes = torch.arange(length).remainder(classes).repeat(3, 1)
        probes[1, 0] = (probes[1, 0] + 1) % classes
        probes[2, -1] = (probes[2, -1] + 1) % classes
        seen = self._pass(probes, None)
        self.layers = tuple(layer for keys, read in seen.items() if (layer := _layer(keys, read)) is not None)

    def __call__(self, tokens: Tensor, layers: Sequence[ReadLayer]) -> list[Tensor]:
        """What these layers read of tokens (n, up to length), each (n, tokens, width), float64."""
        wanted = {layer.keys for layer in layers}
        seen = self._pass(tokens, wanted)
        return [seen[layer.keys] for layer in layers]

    def logits(self, tokens: Tensor) -> Tensor:
        """The network's output."""
        with torch.no_grad():
            output: Tensor = self._network(tokens)
        return output

    def gradient(self, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The gradient of the mean cross-entropy in the network's parameters, by key."""
        # Not by torch.func, whose first gradient in a process loads a compiler for seconds.
        own = {key: one for key, one in self._network.named_parameters() if one.requires_grad}
        loss = F.cross_entropy(self._network(tokens).flatten(0, 1), labels.flatten())
        found = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
        return dict(zip(own, found, strict=True))

    def _pass(self, tokens: Tensor, wanted: set[tuple[str, ...]] | None) -> dict[tuple[str, ...], Tensor]:
        """What is read by keys; keys whose layers are given the very same tensor are joined."""
        record = _Record(tuple(tokens.shape), wanted)
        with contextlib.ExitStack() as stack, torch.no_grad(), contextlib.suppress(_Enough):
            for key, module in self._hooked.items():
                stack.callback(_hook(key, module, record).remove)
            self._network(tokens)
        return record.joined()


class _Enough(Exception):
    """All that was asked for has been read."""


class _Record:
    """What was read so far, in order."""

    def __init__(self, shape: tuple[int, ...], wanted: set[tuple[str, ...]] | None) -> None:
        self._shape = shape
        self._left = None if wanted is None else {key for keys in wanted for key in keys}
        self._found: list[tuple[list[str], Tensor]] = []

    def add(self, key: str, read: Any) -> None:
        if not isinstance(read, Tensor) or read.shape[:2] != self._shape or read.dim() != 3:
            return
        if self._left is not None:
            if key not in self._left:
                return
            self._left.discard(key)
        if self._found and self._found[-1][1] is read:
            self._found[-1][0].append(key)
        else:
            self._found.append(([key], read))
        if self._left is not None and not self._left:
            raise _Enough

    def joined(self) -> dict[tuple[str, ...], Tensor]:
        return {tuple(keys): read for keys, read in self._found}


def _hooked(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear):
            yield f"{prefix}weight", module
        elif isinstance(module, nn.RNNBase) and module.num_layers == 1 and not module.bidirectional:
            yield f"{prefix}weight_ih_l0", module
            yield f"{prefix}weight_hh_l0", module


def _hook(key: str, module: nn.Module, record: _Record) -> RemovableHandle:
    def before(_: nn.Module, given: tuple[Any, ...]) -> None:
        record.add(key, given[0])

    def after(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        # Torch's own recurrent layers give all states and the last.
        record.add(key, made[0] if isinstance(made, tuple) else made)

    states = key.endswith("weight_hh_l0")
    return module.register_forward_hook(after) if states else module.register_forward_pre_hook(before)


def _layer(keys: tuple[str, ...], read: Tensor) -> ReadLayer | None:
    """The layer by what it read of three sequences, of which two differ from the first at one end each."""
    first, other_begin, other_end = read
    scale = float(first.abs().max()) or 1.0
    moved = [((one - first).abs().amax(1) > _SAME * scale) for one in (other_begin, other_end)]
    if bool(moved[1][:-1].any()):  # it looks ahead
        return None
    return ReadLayer(keys, read.shape[2], not bool(moved[0][1:].any()))
