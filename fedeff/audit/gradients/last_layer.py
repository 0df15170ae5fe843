"""What came of a network's last dense layer, as the mean gradient of a step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.audit.view import Exchange, NDArray, Public, ServerView
from fedeff.clients import LocalTraining
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError

__all__ = ["Head", "mean_gradient_of", "obstacle_to_opening", "opened"]

_RANDOM_ROWS = 64  # inputs that tell what usually goes into the last layer


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer in one exchange: its gradient, its weights, and what usually goes into it.

    `gradient` and `weight` are (classes, 1 + width): the bias's, then the weight's; the gradient is NaN
    where it is unknown, the weight of a bias that is not there 0. `usual` (1 + width,) is the mean of
    what random inputs put in, led by 1. `bias_std` is the error to be expected in the bias's gradient,
    `shortened` whether clipping may have scaled it down by a factor that is not known.
    """

    gradient: NDArray
    weight: NDArray
    usual: NDArray
    bias_std: float
    shortened: bool

    def probabilities(self, inside: NDArray) -> NDArray:
        """Softmax (n, classes) of what goes in, (n, 1 + width)."""
        logits = inside @ self.weight.T
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def mean_gradient_of(exchange: Exchange, key: str, steps: int) -> tuple[NDArray, float]:
    """The mean gradient over a client's steps that an array's change tells, and its standard deviation.

    NaN where unknown. Exact for one step of SGD; of several a mean along the way; of Adam only the sign
    is right.
    """
    told = exchange.told[key]
    values, std = np.where(told.mask, told.values, np.nan), float(np.max(told.std))
    if exchange.kind == "gradient":
        return values, std
    moved = exchange.training.learning_rate * _steps_that_count(exchange.training, steps)
    weights = np.asarray(exchange.weights[key], np.float64)
    decay = exchange.training.weight_decay
    return -values / moved - decay * weights, std / moved


def _steps_that_count(training: LocalTraining, steps: int) -> float:
    """Steps of plain SGD that go as far along a gradient that stays the same."""
    m = training.momentum
    return float(sum((1 - m**step) / (1 - m) for step in range(1, steps + 1)))


def obstacle_to_opening(view: ServerView) -> str | None:
    """Why the last layer tells nothing, in one line; None where it does."""
    found = _last_dense(view.public.network(), view.public.classes)
    if found is None:
        return "the model does not end in a dense layer with an output a class"
    shown = [
        exchange.told[key] for exchange in view.exchanges for key in _keys(found[0]) if key in exchange.told
    ]
    return None if any(one.mask.any() for one in shown) else "nothing is known of the last layer"


def opened(exchange: Exchange, view: ServerView) -> Head:
    """The last layer as this exchange shows it. Raises AuditError for models that do not end in one."""
    network = view.public.network().double()
    found = _last_dense(network, view.public.classes)
    if found is None:
        raise AuditError("the model does not end in a dense layer with an output a class")
    load_weights(network, exchange.weights)
    name, layer = found
    steps = max(1, exchange.training.step_count(max(1, exchange.rows // exchange.clients)))
    steps = 1 if exchange.kind == "gradient" else steps
    weight_key, bias_key = _keys(name)
    blank = np.full((layer.out_features, 1 + layer.in_features), np.nan)
    gradient, weight, bias_std = blank.copy(), np.zeros_like(blank), 0.0
    for key, columns in ((bias_key, slice(0, 1)), (weight_key, slice(1, None))):
        if key in exchange.weights:
            weight[:, columns] = _two_axes(exchange.weights[key])
        if key in exchange.told:
            mean, std = mean_gradient_of(exchange, key, steps)
            gradient[:, columns] = _two_axes(mean)
            bias_std = std if key == bias_key else bias_std
            # Halfway: what the probabilities were on the mean of the steps.
            weight[:, columns] += _two_axes(np.nan_to_num(exchange.told[key].values)) / 2 * (steps > 1)
    usual = np.append(1.0, _usual_inside(network, layer, view.public))
    shortened = bool(exchange.clipping_norm) or exchange.training.dp_sgd is not None
    return Head(gradient, weight, usual, bias_std, shortened)


def _two_axes(values: NDArray) -> NDArray:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _keys(name: str) -> tuple[str, str]:
    prefix = f"{name}." if name else ""
    return f"{prefix}weight", f"{prefix}bias"


def _last_dense(network: nn.Module, classes: int) -> tuple[str, nn.Linear] | None:
    """The last dense layer with as many outputs as there are classes, and its name."""
    found = [
        (name, one)
        for name, one in network.named_modules()
        if isinstance(one, nn.Linear) and one.out_features == classes
    ]
    return found[-1] if found else None


def _usual_inside(network: nn.Module, layer: nn.Linear, public: Public) -> NDArray:
    """The mean of what random inputs put into the layer, (width,)."""
    drawn = np.random.default_rng(0).uniform(
        public.lowest, public.highest, (_RANDOM_ROWS, *public.input_shape)
    )
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(torch.from_numpy(drawn))
    hook.remove()
    return np.asarray(seen[0].flatten(0, -2).mean(0))
