"""A dense layer that reads the input itself: where one is, and the gradient that came of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.audit.view import Exchange, NDArray, Public

__all__ = ["DenseFront", "Gradient", "dense_front", "gradient_of", "loaded", "low_rank_obstacle"]

_TRIALS = 4  # random inputs on which a rectifier is told from other activations
_SEED = 0  # of those inputs: any will do
_FLOAT32 = 2.0**-24  # half the distance of 1 to the next float32


@dataclass(frozen=True)
class DenseFront:
    """A dense layer whose input is the flattened input of the network.

    `weight` and `bias` are its keys (bias None where it has none), `rectified` whether a ReLU follows,
    `reader` the key of the weight of the dense layer that reads that ReLU, None where it is another.
    """

    weight: str
    bias: str | None
    rectified: bool
    reader: str | None


@dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient up to one common positive factor: values and which are known, both of the array's shape.

    `error` is about the standard deviation of a known value's error, rounding to float32 included.
    """

    values: NDArray
    known: NDArray
    error: float


def loaded(public: Public, weights: Mapping[str, NDArray]) -> nn.Module:
    """The public network in float64 with these weights, in evaluation mode."""
    network = public.network().double().eval()
    arrays = {key: torch.from_numpy(np.array(values)) for key, values in weights.items()}
    network.load_state_dict(arrays, strict=False)
    return network


def dense_front(public: Public, weights: Mapping[str, NDArray]) -> DenseFront | None:
    """The dense layer that reads the input as it is; None where another layer comes first.

    Found by passing random inputs through the network: nothing is read off its class.
    """
    if public.task != "classify":
        return None
    network = loaded(public, weights)
    x = _random_inputs(public)
    calls = _calls(network, x)
    if not calls or not isinstance(calls[0].layer, nn.Linear):
        return None
    first = calls[0]
    if first.read.shape != x.flatten(1).shape or not torch.equal(first.read, x.flatten(1)):
        return None
    layer = first.layer
    assert isinstance(layer, nn.Linear)
    z = torch.nn.functional.linear(x.flatten(1), layer.weight, layer.bias)
    reader = None
    if len(calls) > 1 and isinstance(calls[1].layer, nn.Linear) and torch.equal(calls[1].read, z.relu()):
        reader = f"{calls[1].name}.weight"
    own = dict(layer.named_parameters())
    bias = f"{first.name}.bias" if "bias" in own else None
    return DenseFront(f"{first.name}.weight", bias, _is_rectified(network, layer, x, z), reader)


def gradient_of(exchange: Exchange, key: str) -> Gradient:
    """The gradient of one array that an exchange betrays, up to a positive factor common to all arrays.

    Of a change it is the sum over the local steps that plain or momentum SGD took; the weight decay of a
    single step is taken off.
    """
    told = exchange.told[key]
    weights, training = np.asarray(exchange.weights[key], np.float64), exchange.training
    shown = np.where(told.mask, told.values, 0.0)
    std = _size(np.broadcast_to(told.std, shown.shape)[told.mask])
    if exchange.kind == "gradient":
        return Gradient(shown, told.mask, std + _FLOAT32 * _size(shown[told.mask]))
    values = -shown / training.learning_rate - training.weight_decay * weights
    # The client's arrays before and after were rounded.
    error = (std + _FLOAT32 * (_size(weights) + _size(weights + shown))) / training.learning_rate
    return Gradient(values, told.mask, error)


def low_rank_obstacle(exchange: Exchange) -> str | None:
    """Why the changes of dense layers are no sums over rows; None where each row adds one outer product."""
    training = exchange.training
    if exchange.kind == "gradient":
        return None
    if training.optimizer not in ("sgd", "momentum"):
        return f"optimizer {training.optimizer!r} changes weights by more than their gradient"
    if exchange.steps > 1 and (training.weight_decay or training.prox_mu):
        return "weight decay or a proximal term over several local steps hides the gradient's rank"
    return None


def _size(values: NDArray) -> float:
    """The root of the mean square; 0 of no values."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


@dataclass(frozen=True, eq=False)
class _Call:
    name: str
    layer: nn.Module
    read: torch.Tensor


def _calls(network: nn.Module, x: torch.Tensor) -> list[_Call]:
    """The modules that own parameters, in the order in which they are used, with what they read."""
    calls: list[_Call] = []

    def note(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: nn.Module, read: tuple[torch.Tensor, ...]) -> None:
            calls.append(_Call(name, layer, read[0].detach().clone()))

        return network.get_submodule(name).register_forward_pre_hook(hook)

    owners = [
        name for name, one in network.named_modules() if next(one.parameters(recurse=False), None) is not None
    ]
    handles = [note(name) for name in owners]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _random_inputs(public: Public) -> torch.Tensor:
    drawn = np.random.default_rng(_SEED).random((_TRIALS, math.prod(public.input_shape)))
    x = torch.from_numpy(public.lowest + (public.highest - public.lowest) * drawn)
    return x.reshape(_TRIALS, *public.input_shape)


def _is_rectified(network: nn.Module, layer: nn.Linear, x: torch.Tensor, z: torch.Tensor) -> bool:
    """Whether nothing comes back of units at or below zero, and something of the others."""
    bias: torch.Tensor | None = layer.bias
    if bias is None:
        return False
    for one, units in zip(x, z, strict=True):
        logits = network(one[None])
        weighing = torch.linspace(1, 2, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
        (back,) = torch.autograd.grad((logits * weighing).sum(), bias)
        if bool((back[units <= 0] != 0).any()) or not bool((back[units > 0] != 0).any()):
            return False
    return True
