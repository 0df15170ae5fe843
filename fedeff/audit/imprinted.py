"""Networks with an imprint layer, as a malicious server sends them (Fowl et al., arXiv:2110.13057)."""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedeff.audit.attacks.dense_front import DenseFront, dense_front
from fedeff.audit.view import NDArray, Public
from fedeff.core.errors import AuditError, ConfigError

__all__ = ["ImprintedNetwork", "imprinted", "imprinted_weights", "weights_suffice"]

# Small biases and weights: what a step adds to them is then little rounded in float32.
_SPREAD = 1e-3
_MERGED = 0.25  # about what all units together add to a logit, or to a pixel


class ImprintedNetwork(nn.Module):
    """A network behind an imprint layer; inputs and outputs keep their shapes.

    What the imprint gives, one number for an input, goes onto all pixels, so that the layer is trained. A
    client has to run this module in place of its own: where its code is its own, only weights can be
    crafted (`imprinted_weights`), which takes a network that begins with a dense layer and a ReLU.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], bins: int) -> None:
        super().__init__()
        inputs = math.prod(input_shape)
        self.imprint, self.merge = nn.Linear(inputs, bins), nn.Linear(bins, inputs)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives of inputs (n, ...) with the imprint's number on each."""
        added = self.merge(torch.relu(self.imprint(x.flatten(1))))
        output: Tensor = self.network(x + added.reshape(x.shape))
        return output


def weights_suffice(public: Public, weights: Mapping[str, NDArray]) -> bool:
    """Whether an imprint takes crafted weights alone: a dense layer, a ReLU and a dense layer come first."""
    front = dense_front(public, weights)
    return front is not None and _can_take(front)


def imprinted_weights(
    public: Public, weights: Mapping[str, NDArray], samples: NDArray, rng: np.random.Generator
) -> dict[str, NDArray]:
    """The weights with an imprint in the first layer, one bin a unit: to be sent in place of the model.

    `samples` (n, *input_shape) are public inputs of the kind that clients have; only the quantiles of one
    linear measure are taken from them. Raises AuditError where the network has no place for an imprint.
    """
    front = dense_front(public, weights)
    if front is None or not _can_take(front):
        raise AuditError(
            "the network does not begin with dense, ReLU, dense; imprinted() wraps it, which changes its code"
        )
    crafted = {key: np.array(values) for key, values in weights.items()}
    assert front.bias is not None
    assert front.reader is not None
    first, bias = _imprint(crafted[front.weight].shape, samples, rng)
    reader = crafted[front.reader]
    signs = np.where(np.arange(len(reader)) % 2, -1, 1) * (1 + np.arange(len(reader)) / len(reader))
    # Equal columns make all units send the same back; small ones leave the classes about equally likely.
    crafted[front.reader] = np.repeat(signs[:, None], reader.shape[1], 1) * _strength(reader.shape[1])
    crafted |= {front.weight: first, front.bias: bias}
    return {key: values.astype(weights[key].dtype) for key, values in crafted.items()}


def imprinted(
    network: nn.Module, public: Public, bins: int, samples: NDArray, rng: np.random.Generator
) -> ImprintedNetwork:
    """A copy of the network behind an imprint of so many bins, whatever the network is.

    `samples` are as in `imprinted_weights`. Raises ConfigError for less than two bins.
    """
    if bins < 2:
        raise ConfigError(f"bins is {bins}; an imprint needs at least 2")
    module = ImprintedNetwork(copy.deepcopy(network), public.input_shape, bins)
    inputs = math.prod(public.input_shape)
    weight, bias = _imprint((bins, inputs), samples, rng)
    direction = rng.standard_normal((inputs, 1)) * _strength(bins)
    arrays = {
        "imprint.weight": weight,
        "imprint.bias": bias,
        "merge.weight": np.repeat(direction, bins, 1),
        "merge.bias": np.zeros(inputs),
    }
    tensors = {key: torch.from_numpy(values).float() for key, values in arrays.items()}
    module.load_state_dict({**module.state_dict(), **tensors})
    return module


def _strength(bins: int) -> float:
    """The weight with which units are read so that all that are on add up to about `_MERGED`."""
    return _MERGED / (bins * _SPREAD)


def _can_take(front: DenseFront) -> bool:
    return front.rectified and front.bias is not None and front.reader is not None


def _imprint(shape: tuple[int, ...], samples: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Weights (bins, inputs) of equal rows, and biases (bins,) at minus the quantiles of what they measure.

    The measure is a random direction; public inputs spread by `_SPREAD`. The first bin is open below.
    """
    bins, inputs = shape
    rows = np.asarray(samples, np.float64).reshape(len(samples), -1)
    if rows.shape[1] != inputs or len(rows) < 2:
        raise ConfigError(
            f"samples have shape {samples.shape}; expected at least 2 inputs of {inputs} values"
        )
    measure = rng.standard_normal(inputs)
    measured = rows @ measure
    spread = measured.std()
    if not spread > 0:
        raise ConfigError("the samples are all alike; give public inputs that differ")
    quantiles = np.quantile(measured, np.arange(bins) / bins)
    quantiles[0] -= 10 * spread
    scale = _SPREAD / spread
    return np.repeat(scale * measure[None], bins, 0), -scale * quantiles
