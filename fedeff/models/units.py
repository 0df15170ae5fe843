"""Which entries of which arrays belong to one unit of a model: a filter, a neuron, a hidden state.

A model that can be made smaller says so by `units()`: it lists the sets of units that may lose
members, each with the slices of arrays that make a unit and those that read it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from fedeff.core.errors import ConfigError

__all__ = ["Bypassable", "Kind", "Shrinkable", "Slice", "Units", "shrinkable", "unit_scale"]

Kind = Literal["filter", "neuron", "hidden"]


@dataclass(frozen=True)
class Slice:
    """Where a set of units lies in one array: along `axis`, one after the other.

    An axis of several `blocks` lists all units once per block, as the gates of an LSTM do. With a
    `span` each unit takes so many neighbouring entries, as a channel does once an image is flattened.
    """

    key: str
    axis: int
    blocks: int = 1
    span: int = 1

    def view(self, array: torch.Tensor) -> torch.Tensor:
        """The array as (units, ...), a view that may be written to."""
        shape = array.shape
        split = (self.blocks, self.count(shape[self.axis]), self.span)
        return array.view(*shape[: self.axis], *split, *shape[self.axis + 1 :]).movedim(self.axis + 1, 0)

    def entries(self, kept: Iterable[int], length: int) -> list[int]:
        """The places along the axis, `length` long, that the units `kept` take.

        >>> Slice("weight", 0, blocks=2, span=2).entries([1], 8)
        [2, 3, 6, 7]
        """
        block, chosen = length // self.blocks, tuple(kept)
        return [
            b * block + unit * self.span + place
            for b in range(self.blocks)
            for unit in chosen
            for place in range(self.span)
        ]

    def count(self, length: int) -> int:
        """How many units an axis of this length holds."""
        return length // (self.blocks * self.span)


@dataclass(frozen=True)
class Units:
    """A set of like units, named after the layer that makes them.

    A unit whose `incoming` entries are all zero gives zero, and what reads it is not needed. One
    whose `outgoing` entries are all zero is not needed either, unless it is `normalised` together
    with others, which its values then shift.
    """

    name: str
    kind: Kind
    incoming: tuple[Slice, ...]
    outgoing: tuple[Slice, ...]
    normalised: bool = False

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Both, those that make a unit first."""
        return self.incoming + self.outgoing


@runtime_checkable
class Shrinkable(Protocol):
    """A module that can lose units, and blocks beside a shortcut."""

    def units(self) -> tuple[Units, ...]:
        """The sets of units that may lose members, by this module's own keys."""
        ...

    def blocks(self) -> tuple[str, ...]:
        """The names of the submodules beside a shortcut, each a `Bypassable`."""
        ...


@runtime_checkable
class Bypassable(Protocol):
    """A module that adds something to a shortcut, and can be reduced to it."""

    def is_silent(self, threshold: float) -> bool:
        """Whether what it adds is zero, given that weights up to the threshold are."""
        ...

    def bypassed(self) -> nn.Module:
        """The shortcut alone."""
        ...


def shrinkable(module: nn.Module) -> Shrinkable:
    """The module, once it is known to say what it can lose.

    Raises:
        ConfigError: if it does not.
    """
    if not isinstance(module, Shrinkable):
        raise ConfigError(
            f"{type(module).__name__} does not say which of its units can go; "
            "give it the methods units() and blocks() of fedeff.models.Shrinkable"
        )
    return module


def unit_scale(slices: Iterable[Slice], arrays: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The root mean square (units,) of each unit's entries in these slices, in float64."""
    views = [one.view(arrays[one.key]).detach().double().flatten(1) for one in slices]
    squares = torch.stack([view.square().sum(1) for view in views]).sum(0)
    return (squares / sum(view.shape[1] for view in views)).sqrt()
