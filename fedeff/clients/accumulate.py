"""Gradients that a client gathers over rounds before it sends their mean, layer by layer.

The adaptive update frequency of Lee et al. (JPDC 2021): while a layer's new gradient points where
those gathered so far point, sending can wait. The server decides, from one cosine per layer.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.loop import gradients_of
from fedeff.clients.training import Array, LocalTraining
from fedeff.clients.weights import load_weights
from fedeff.core.layers import group_layers

__all__ = ["Accumulated", "Gradient", "added", "agreements", "mean_gradient", "means", "without"]


@dataclass(frozen=True)
class Gradient:
    """A mean gradient by array key (of parameters that are trained), and the mean loss it is of.

    `buffers` are the model's after the passes forward, such as running statistics: they move without
    a gradient.
    """

    arrays: dict[str, Array]
    loss: float
    steps: int
    examples: int
    buffers: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Accumulated:
    """Sums of gradients by array key, and by layer how many each holds; a layer without is left out."""

    sums: Mapping[str, Array]
    counts: Mapping[str, int]


def mean_gradient(
    model: nn.Module,
    arrays: Mapping[str, Array],
    samples: Samples,
    training: LocalTraining,
    rng: np.random.Generator,
) -> Gradient:
    """The mean over `training.steps` mini-batches (1 if that is 0) of the loss's gradient at `arrays`.

    No step is taken: optimiser, weight decay and the FedProx term play no part. Dropout is on, as
    in training, and running statistics move. `model` is overwritten. Raises ConfigError where the
    arrays do not fit it.
    """
    load_weights(model, arrays)
    own = {key: p for key, p in model.named_parameters() if p.requires_grad}
    sums = [torch.zeros_like(p) for p in own.values()]
    work = replace(training, steps=training.steps or 1)
    total, seen = 0.0, 0
    for count, of_batch, gradients in gradients_of(model, list(own.values()), samples, work, rng):
        torch._foreach_add_(sums, gradients)
        total, seen = total + float(of_batch.loss) * count, seen + count
    torch._foreach_div_(sums, work.steps)
    means = {key: values.contiguous().cpu().numpy() for key, values in zip(own, sums, strict=True)}
    buffers = {key: b.cpu().numpy().copy() for key, b in model.named_buffers() if key in arrays}
    return Gradient(means, total / seen, work.steps, len(samples), buffers)


def agreements(
    accumulated: Accumulated, gradient: Mapping[str, Array], keys: Sequence[str]
) -> dict[str, float]:
    """Each layer's cosine between what is accumulated and the new gradient, in float64.

    1.0 where nothing is accumulated, or where one of the two is zero and so has no direction.
    """
    return {
        layer: _cosine(accumulated.sums, gradient, [key for key in members if key in gradient])
        if accumulated.counts.get(layer)
        else 1.0
        for layer, members in group_layers(keys).items()
    }


def added(accumulated: Accumulated, gradient: Mapping[str, Array], keys: Sequence[str]) -> Accumulated:
    """With one gradient more in every layer."""
    sums = {
        key: accumulated.sums[key] + values if key in accumulated.sums else values
        for key, values in gradient.items()
    }
    return Accumulated(sums, {layer: accumulated.counts.get(layer, 0) + 1 for layer in group_layers(keys)})


def means(accumulated: Accumulated, weights: Mapping[str, Array], layers: Iterable[str]) -> dict[str, Array]:
    """The mean gradient of the layers' arrays; zeros for those that have none, such as frozen parameters."""
    members, found = group_layers(weights), {}
    for layer in layers:
        for key in members[layer]:
            total = accumulated.sums.get(key)
            found[key] = (
                np.zeros_like(weights[key], order="C")
                if total is None
                else np.asarray(total / accumulated.counts[layer], total.dtype)
            )
    return found


def without(accumulated: Accumulated, layers: Iterable[str]) -> Accumulated:
    """With nothing in these layers."""
    gone = set(layers)
    counts = {layer: count for layer, count in accumulated.counts.items() if layer not in gone}
    members = group_layers(accumulated.sums)
    kept = {key for layer, keys in members.items() if layer not in gone for key in keys}
    return Accumulated({key: sums for key, sums in accumulated.sums.items() if key in kept}, counts)


def _cosine(first: Mapping[str, Array], second: Mapping[str, Array], keys: Sequence[str]) -> float:
    pairs = [(first[key].ravel().astype(np.float64), second[key].ravel().astype(np.float64)) for key in keys]
    lengths = math.sqrt(sum(_dot(a, a) for a, _ in pairs)) * math.sqrt(sum(_dot(b, b) for _, b in pairs))
    return sum(_dot(a, b) for a, b in pairs) / lengths if lengths else 1.0


def _dot(first: Array, second: Array) -> float:
    """The inner product of two vectors, always in the same order."""
    # `first @ second` is a call of BLAS, whose order of additions depends on its number of threads.
    return float(np.einsum("i,i->", first, second))
