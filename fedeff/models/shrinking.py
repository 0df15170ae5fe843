"""From a model with units that do nothing to a really smaller one with the same outputs."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.models.cropping import CroppedConv2d, can_crop, window_of
from fedeff.models.decomposition import DecomposedConv2d, convolutions
from fedeff.models.normalisation import PartialGroupNorm
from fedeff.models.structure import Structure
from fedeff.models.units import Bypassable, Slice, Units, shrinkable, unit_scale

__all__ = ["apply", "shrink", "units_of", "what_can_go"]

Array = np.ndarray[Any, np.dtype[Any]]


def apply(structure: Structure, module: nn.Module) -> nn.Module:
    """A smaller copy of a built module: its units, blocks and kernels cut, its convolutions decomposed.

    Outputs are those of the module where what is cut was zero and the ranks are full. `module` is left
    as it is. Blocks go first, then units, kernels, and decomposition last. Training goes on as with any
    module; masks are not needed.

    Raises:
        ConfigError: if the structure was made for another model.

    >>> from fedeff.models import build
    >>> small = apply(Structure(1, {"fc1": (0, 2, 5)}), build("mlp"))
    >>> small.fc1.out_features, small.fc2.in_features
    (3, 3)
    """
    small = copy.deepcopy(module)
    for name in structure.bypassed:
        _replace(small, name, _block(small, name).bypassed())
    known = {units.name: units for units in units_of(small)} if structure.kept else {}
    for name, kept in structure.kept.items():
        if name not in known:
            raise unknown_name(f"units of {type(module).__name__}", name, known)
        _keep(small, known[name], kept)
    for name, window in structure.windows.items():
        _replace(small, name, CroppedConv2d(_convolution(small, name), window))
    for name, rank in structure.ranks.items():
        # Cut after it was decomposed, a layer may have fewer filters than basis filters.
        whole = min(_convolution(module, name).weight.flatten(1).shape)
        _replace(small, name, DecomposedConv2d(_convolution(small, name), rank, most=whole))
    return small


def shrink(
    module: nn.Module, weights: Mapping[str, Array], threshold: float = 0.0
) -> tuple[Structure, dict[str, Array]]:
    """What can be cut from a module that holds these weights, and the weights of what is left.

    `module` lends its layers; its own weights are neither read nor written. The structure numbers what
    this module has; for a module that was cut before, `before.then(structure)` tells both. Equal outputs
    where everything under the threshold (see `what_can_go`) is zero.

    Raises:
        ConfigError: if the module does not say what it can lose, or the weights are not its own.
    """
    held = copy.deepcopy(module)
    held.load_state_dict({key: torch.from_numpy(np.array(values)) for key, values in weights.items()})
    change = what_can_go(held, threshold)
    state = apply(change, held).state_dict()
    return change, {key: values.contiguous().numpy() for key, values in state.items()}


def what_can_go(module: nn.Module, threshold: float = 0.0) -> Structure:
    """The change that cuts what a module's weights do not need.

    A unit goes where the root mean square of the entries that make it, or of those that read it, is at
    most the threshold; of a set the strongest stays in any case. A block goes where its own output is so
    small, outer rows and columns of a kernel where all its filters are.
    """
    blocks = [name for name in shrinkable(module).blocks() if _block(module, name).is_silent(threshold)]
    first = Structure(bypassed=tuple(blocks))
    rest = apply(first, module) if blocks else module
    arrays = {**dict(rest.named_parameters()), **dict(rest.named_buffers())}
    kept = {}
    for units in units_of(rest):
        alive = _alive(units, arrays, threshold)
        made = units.incoming[0]
        if len(alive) < made.count(arrays[made.key].shape[made.axis]):
            kept[units.name] = alive
    small = apply(replace(first, kept=kept), module) if kept else rest
    windows = {}
    for name, conv in convolutions(small).items():
        window = window_of(conv, threshold)
        if can_crop(conv) and window[2:] != conv.kernel_size:
            windows[name] = window
    return replace(first, kept=kept, windows=windows)


def units_of(module: nn.Module) -> tuple[Units, ...]:
    """The sets of units of a module, by the keys that its arrays have now.

    Where a convolution was decomposed its filters are made by the 1x1 convolution and read their
    inputs through the basis.
    """
    split = {name for name, one in module.named_modules() if isinstance(one, DecomposedConv2d)}
    return tuple(
        replace(
            units,
            incoming=tuple(_through(one, split) for one in units.incoming),
            outgoing=tuple(_through(one, split) for one in units.outgoing),
        )
        for units in shrinkable(module).units()
    )


def _through(one: Slice, split: Iterable[str]) -> Slice:
    layer, _, kind = one.key.rpartition(".")
    if layer not in split:
        return one
    part = "basis" if kind == "weight" and one.axis == 1 else "mix"
    return replace(one, key=f"{layer}.{part}.{kind}")


def _alive(units: Units, arrays: dict[str, torch.Tensor], threshold: float) -> tuple[int, ...]:
    made = unit_scale(units.incoming, arrays)
    needed = made > threshold
    strength = made
    if not units.normalised:
        read = unit_scale(units.outgoing, arrays)
        needed &= read > threshold
        strength = made * read
    if not needed.any():
        needed[strength.argmax()] = True
    return tuple(torch.nonzero(needed)[:, 0].tolist())


def _keep(module: nn.Module, units: Units, kept: tuple[int, ...]) -> None:
    """Cut the arrays of a module down to these units."""
    for one in units.slices:
        layer, _, name = one.key.rpartition(".")
        owner = module.get_submodule(layer)
        if isinstance(owner, nn.GroupNorm | PartialGroupNorm):
            if name == "weight":  # its bias goes with it
                _check_units(units.name, kept, one.count(owner.weight.shape[0]))
                _replace(module, layer, PartialGroupNorm(owner, kept))
            continue
        array = getattr(owner, name)
        length = array.shape[one.axis]
        _check_units(units.name, kept, one.count(length))
        rows = torch.tensor(one.entries(kept, length), device=array.device)
        smaller = array.detach().index_select(one.axis, rows)
        setattr(owner, name, nn.Parameter(smaller, requires_grad=array.requires_grad))
        _refit(owner)


def _refit(layer: nn.Module) -> None:
    """Tell a layer the sizes that its weights now have."""
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.RNNBase):
        weight: torch.Tensor = layer.get_parameter("weight_hh_l0")
        layer.hidden_size = weight.shape[1]


def _check_units(name: str, kept: tuple[int, ...], count: int) -> None:
    if kept[-1] >= count:
        raise ConfigError(
            f"structure keeps unit {kept[-1]} of {name!r}, which has {count}; it was made for another model"
        )


def _block(module: nn.Module, name: str) -> Bypassable:
    blocks = shrinkable(module).blocks()
    if name not in blocks:
        raise unknown_name(f"block of {type(module).__name__}", name, blocks)
    block = module.get_submodule(name)
    assert isinstance(block, Bypassable)
    return block


def _convolution(module: nn.Module, name: str) -> nn.Conv2d:
    found = convolutions(module)
    if name not in found:
        raise unknown_name(f"convolution of {type(module).__name__}", name, found)
    return found[name]


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
