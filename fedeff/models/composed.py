"""Layers that compose their weights of smaller arrays at every pass, and back to plain layers."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.models.recurrent import Gru, Lstm

__all__ = ["Composed", "Composition", "Made", "can_compose", "composable", "freeze", "merge", "put_in"]

_FROZEN = "frozen_parameters"  # attribute of modules whose parameters were frozen: their names


class Composition(Protocol):
    """How one weight is made of other arrays."""

    def weight(self, arrays: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight that these arrays make."""
        ...


@dataclass(frozen=True)
class Made:
    """What one weight is made of, at the start.

    Arrays that are trained, others that stay as they are, and `personal` ones, which are trained but, as
    those that stay, never travel.
    """

    composition: Composition
    trained: Mapping[str, torch.Tensor]
    frozen: Mapping[str, torch.Tensor] = field(default_factory=dict)
    personal: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Composed(nn.Module):
    """A dense, convolutional or recurrent layer, some of whose weights are composed at every pass.

    An array of the weight `weight` is called `weight_x1` and so on, so that all of a layer's arrays still
    belong to one layer. Those that are frozen or personal are in no `state_dict`: they never travel. What
    is not composed, such as a bias, stays a parameter under its own name.
    """

    def __init__(self, layer: nn.Module, weights: Mapping[str, Made]) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)  # tells sizes and strides, and what kind of layer this is
        self._compositions: dict[str, tuple[Composition, tuple[str, ...]]] = {}
        self._plain: tuple[str, ...] = ()
        self._personal: frozenset[str] = frozenset()
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(self.layer, name, None)
            if name in weights:
                self._compose(name, weights[name])
            else:
                self._plain += (name,)
                setattr(self, name, nn.Parameter(parameter.detach().clone()))
        if self._personal:
            self.register_state_dict_post_hook(_without_personal)  # type: ignore[no-untyped-call]
            hook = _personal_may_be_missing
            self.register_load_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer it stands for gives, with the weights that its arrays make."""
        layer, weights = self.layer, self.weights()
        if isinstance(layer, Gru | Lstm):
            return layer.states(x, weights, fused=self._holds_own_arrays())
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(
                x,
                weights["weight"],
                weights.get("bias"),
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
            )
        return F.linear(x, weights["weight"], weights.get("bias"))

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights and biases of the layer it stands for, by their names there."""
        made = {
            name: composition.weight({array: getattr(self, f"{name}_{array}") for array in arrays})
            for name, (composition, arrays) in self._compositions.items()
        }
        return made | {name: getattr(self, name) for name in self._plain}

    def plain(self) -> nn.Module:
        """The layer it stands for, with the weights that its arrays make now."""
        layer = copy.deepcopy(self.layer)
        for name, weight in self.weights().items():
            setattr(layer, name, nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format)))
        return layer

    def _compose(self, name: str, made: Made) -> None:
        self._compositions[name] = made.composition, (*made.frozen, *made.trained, *made.personal)
        self._personal |= {f"{name}_{array}" for array in made.personal}
        for array, values in made.frozen.items():
            self.register_buffer(f"{name}_{array}", values.detach().clone(), persistent=False)
        for array, values in (*made.trained.items(), *made.personal.items()):
            setattr(self, f"{name}_{array}", nn.Parameter(values.detach().clone()))

    def _holds_own_arrays(self) -> bool:
        # `torch.func.functional_call` puts plain tensors where a module's own arrays are Parameters.
        return any(isinstance(array, nn.Parameter) for array in self.parameters(recurse=False))


def _without_personal(
    layer: Composed, state: dict[str, torch.Tensor], prefix: str, metadata: dict[str, Any]
) -> None:
    for name in layer._personal:
        del state[prefix + name]


def _personal_may_be_missing(layer: Composed, incompatible: Any) -> None:
    missing: list[str] = incompatible.missing_keys
    missing[:] = [key for key in missing if key.rpartition(".")[2] not in layer._personal]


def can_compose(layer: nn.Module) -> bool:
    """Whether a layer's weights can be composed of others.

    Those of dense layers, of the package's recurrent ones, and of convolutions in one group that pad
    with zeros.
    """
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear or isinstance(layer, Gru | Lstm)


def composable(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of a module by name whose weights can be composed; not those inside of a composed one."""
    inside = tuple(f"{name}." for name, one in module.named_modules() if isinstance(one, Composed))
    return {
        name: one
        for name, one in module.named_modules()
        if can_compose(one) and not name.startswith(inside or "\0")
    }


def put_in(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The module with the layer of this name replaced, in place; the layer itself where the name is ""."""
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
    return module


def freeze(module: nn.Module, keys: set[str]) -> None:
    """Keep the parameters of these keys as they are and out of `state_dict`, in place.

    Unlike parameters without a gradient they neither travel nor count.
    """
    for owner_name, owner in module.named_modules():
        prefix = f"{owner_name}." if owner_name else ""
        own = [name for name, _ in owner.named_parameters(recurse=False) if prefix + name in keys]
        for name in own:
            values = getattr(owner, name).detach()
            delattr(owner, name)
            owner.register_buffer(name, values, persistent=False)
        if own:
            setattr(owner, _FROZEN, (*getattr(owner, _FROZEN, ()), *own))


def merge(module: nn.Module) -> nn.Module:
    """A plain copy of a module: composed weights are computed once and for all, frozen ones thawed.

    It has the keys and, up to rounding, the outputs of the module; adapters are folded into the weights
    that they adapt. `module` is left as it is.
    """
    merged = copy.deepcopy(module)
    for name, one in list(merged.named_modules()):
        if isinstance(one, Composed):
            merged = put_in(merged, name, one.plain())
        else:
            _thaw(one)
    return merged


def _thaw(owner: nn.Module) -> None:
    for name in getattr(owner, _FROZEN, ()):
        values = getattr(owner, name)
        delattr(owner, name)
        setattr(owner, name, nn.Parameter(values))
    if hasattr(owner, _FROZEN):
        delattr(owner, _FROZEN)
