"""Which weights of a model belong together: groups that are to become zero as wholes.

The groups of structured sparsity learning and of intrinsic sparse structures (dissertation of
W. Wen, Duke 2019, sections 2.2.1 and 2.3.1), read from what a model says of its units.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedeff.core.errors import unknown_name
from fedeff.models import Slice, Units, convolutions, shrinkable, units_of

__all__ = ["GROUPS", "Family", "Member", "hidden_groups", "structured_groups"]

GROUPS = ("filters", "channels", "neurons", "shapes", "kernels", "depth")


@dataclass(frozen=True)
class Member:
    """One array's entries in a family of groups, told apart along `axes`; none of them: one group.

    `blocks` and `span` say how a single axis lists the groups, as in `fedeff.models.Slice`. A `repeated`
    member holds the entries that the rows and the columns of a square both count, to be counted once.
    """

    key: str
    axes: tuple[int, ...]
    blocks: int = 1
    span: int = 1
    repeated: bool = False

    @classmethod
    def of(cls, one: Slice) -> "Member":
        """The entries of a slice, a group for each unit."""
        return cls(one.key, (one.axis,), one.blocks, one.span)

    @property
    def sign(self) -> int:
        """1, or -1 where the entries are counted once too often without it."""
        return -1 if self.repeated else 1

    def view(self, array: torch.Tensor) -> torch.Tensor:
        """The entries as (groups ..., entries of each ...), a view that may be written to."""
        if self.repeated:
            rows = Slice(self.key, 0, self.blocks).view(array)  # (groups, blocks, 1, columns)
            return rows.diagonal(dim1=0, dim2=3).movedim(-1, 0)
        if len(self.axes) == 1:
            return Slice(self.key, self.axes[0], self.blocks, self.span).view(array)
        return array.movedim(self.axes, tuple(range(len(self.axes)))) if self.axes else array


@dataclass(frozen=True)
class Family:
    """Like groups, one for each place along the members' axes: all filters of a layer, for instance."""

    name: str
    members: tuple[Member, ...]

    def squares(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The squared Euclidean length of each group."""
        total: torch.Tensor | None = None
        for member in self.members:
            view = member.view(weights[member.key])
            rest = tuple(range(len(member.axes), view.dim()))
            squares = view.square().sum(rest) if rest else view.square()
            total = squares if total is None else total.add(squares, alpha=member.sign)
        assert total is not None
        return total.clamp_min(0)

    def size(self, weights: Mapping[str, torch.Tensor]) -> int:
        """How many entries each group has."""
        total = 0
        for member in self.members:
            shape = member.view(weights[member.key]).shape
            total += member.sign * int(torch.Size(shape[len(member.axes) :]).numel())
        return total


def structured_groups(module: nn.Module, names: Iterable[str]) -> tuple[Family, ...]:
    """The families of these names that a model has, for structured sparsity learning.

    - "filters": what makes a filter, its bias and its norm among it (eq. 2.2);
    - "channels": what reads a filter's feature map (eq. 2.2);
    - "neurons": what makes a hidden unit of a dense layer, its bias among it;
    - "shapes": the fibres `W[:, c, m, k]` of every convolution (eq. 2.3);
    - "kernels": the two-dimensional filters `W[n, c]` of every convolution;
    - "depth": all weights beside a shortcut, block by block.

    Only filters and neurons that `shrink` can cut are among them. Layers that do not train are left out.
    Raises ConfigError for an unknown name.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in GROUPS:
            raise unknown_name("group of weights", name, GROUPS)
    found = _all_families(module)
    return _trained(module, [family for name in chosen for family in found[name]])


def hidden_groups(module: nn.Module) -> tuple[Family, ...]:
    """The intrinsic sparse structures of a model: a group for each hidden unit of a recurrent layer.

    What makes its gates, from the input and from the states before, and what reads its state: in the
    layer itself and in the next (section 2.3.1, figure 2.10). Biases are left out, as there. None for a
    model without recurrent layers.
    """
    families = [_hidden(module, units) for units in units_of(module) if units.kind == "hidden"]
    return _trained(module, families)


def _all_families(module: nn.Module) -> dict[str, list[Family]]:
    units = units_of(module)
    filters = [one for one in units if one.kind == "filter"]
    neurons = [one for one in units if one.kind == "neuron"]
    weights = {name: f"{name}.weight" for name in convolutions(module)}
    return {
        "filters": [_slices(one.name, one.incoming) for one in filters],
        "channels": [_slices(one.name, one.outgoing) for one in filters],
        "neurons": [_slices(one.name, one.incoming) for one in neurons],
        "shapes": [Family(name, (Member(key, (1, 2, 3)),)) for name, key in weights.items()],
        "kernels": [Family(name, (Member(key, (0, 1)),)) for name, key in weights.items()],
        "depth": [_whole(module, block) for block in shrinkable(module).blocks()],
    }


def _slices(name: str, slices: Sequence[Slice]) -> Family:
    return Family(name, tuple(map(Member.of, slices)))


def _whole(module: nn.Module, block: str) -> Family:
    """All of a block as one group."""
    keys = [f"{block}.{key}" for key, _ in module.get_submodule(block).named_parameters()]
    return Family(block, tuple(Member(key, ()) for key in keys))


def _hidden(module: nn.Module, units: Units) -> Family:
    parameters = dict(module.named_parameters())
    slices = [one for one in units.slices if parameters[one.key].dim() > 1]
    rows = {one.key: one for one in slices if one.axis == 0}
    both = [rows[one.key] for one in slices if one.axis == 1 and one.key in rows]
    repeated = tuple(Member(one.key, (0,), one.blocks, repeated=True) for one in both)
    return Family(units.name, tuple(map(Member.of, slices)) + repeated)


def _trained(module: nn.Module, families: Iterable[Family]) -> tuple[Family, ...]:
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    return tuple(f for f in families if all(member.key in trained for member in f.members))
