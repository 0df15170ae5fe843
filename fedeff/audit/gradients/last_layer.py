"""What came of a network's last dense layer, as the mean gradient of a step."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from fedeff.audit.view import Exchange, NDArray, Public, ServerView
from fedeff.clients import LocalTraining
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError

__all__ = ["Head", "gradient_bounds_of", "mean_gradient_of", "obstacle_to_opening", "opened"]

_EVEN_ROWS = 64  # inputs of even noise that tell what usually goes into the last layer
_RANDOM_ROWS = 128  # smooth and rough ones that tell how that differs
_SMOOTHING = (0.0, 1 / 16, 1 / 8, 1 / 4)  # widths of the smoothing by the input's side
_LEVEL, _CONTRAST = 0.35, 0.5  # of the range
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer in one exchange: its gradient, its weights, and what usually goes into it.

    `gradient` and `weight` are (classes, 1 + width): the bias's, then the weight's; the gradient is NaN
    where it is unknown, the weight of a bias that is not there 0. `usual` (1 + width,) is the mean of
    what even noise puts in, led by 1, `drawn` (n, width) what smooth and rough random inputs do.
    `bias_std` is the error to be expected in the bias's gradient, `std` that in any entry, `shortened`
    whether clipping may have scaled it down by a factor that is not known.
    """

    gradient: NDArray
    weight: NDArray
    usual: NDArray
    drawn: NDArray
    bias_std: float
    std: float
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
    return _as_gradient(exchange, key, steps, values), std / _moved(exchange, steps)


def gradient_bounds_of(exchange: Exchange, key: str, steps: int) -> tuple[NDArray, NDArray]:
    """The least and the largest that each entry of an array's mean gradient can be, by what did not come.

    Infinite where nothing is known of an entry, and where its value came: see `mean_gradient_of`.
    """
    told = exchange.told[key]
    within = np.where(told.bounded, told.within, np.inf) / _moved(exchange, steps)
    centre = _as_gradient(exchange, key, steps, np.where(told.bounded, told.values, 0.0))
    return centre - within, centre + within


def _as_gradient(exchange: Exchange, key: str, steps: int, values: NDArray) -> NDArray:
    """The mean gradient that makes an array change so."""
    if exchange.kind == "gradient":
        return values
    decay = exchange.training.weight_decay
    weights = np.asarray(exchange.weights[key], np.float64)
    return np.asarray(-values / _moved(exchange, steps) - decay * weights)


def _moved(exchange: Exchange, steps: int) -> float:
    """How far an entry moves, along a gradient of 1 that stays the same."""
    if exchange.kind == "gradient":
        return 1.0
    return exchange.training.learning_rate * _steps_that_count(exchange.training, steps)


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
    gradient, weight, bias_std, largest_std = blank.copy(), np.zeros_like(blank), 0.0, 0.0
    for key, columns in ((bias_key, slice(0, 1)), (weight_key, slice(1, None))):
        if key in exchange.weights:
            weight[:, columns] = _two_axes(exchange.weights[key])
        if key in exchange.told:
            mean, std = mean_gradient_of(exchange, key, steps)
            gradient[:, columns] = _two_axes(mean)
            bias_std, largest_std = std if key == bias_key else bias_std, max(std, largest_std)
            # Halfway: what the probabilities were on the mean of the steps.
            weight[:, columns] += _two_axes(np.nan_to_num(exchange.told[key].values)) / 2 * (steps > 1)
    noise = np.random.default_rng(0).random((_EVEN_ROWS, *view.public.input_shape))
    usual = np.append(1.0, _inside(network, layer, view.public, noise).mean(axis=0))
    drawn = _inside(network, layer, view.public, _smooth_and_rough(view.public.input_shape))
    shortened = bool(exchange.clipping_norm) or exchange.training.dp_sgd is not None
    return Head(gradient, weight, usual, drawn, bias_std, largest_std, shortened)


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


def _inside(network: nn.Module, layer: nn.Linear, public: Public, drawn: NDArray) -> NDArray:
    """What inputs (n, *shape), drawn in [0, 1], put into the layer, (n, width)."""
    x = public.lowest + (public.highest - public.lowest) * drawn
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(torch.from_numpy(x))
    hook.remove()
    return np.asarray(seen[0].flatten(0, -2))


@cache
def _smooth_and_rough(shape: tuple[int, ...]) -> NDArray:
    """Random inputs (n, *shape) in [0, 1]: Gaussian noise about levels of its own, ever more smoothed.

    Images are smooth on scales that nobody knows; noise alone would have a network see them all alike.
    """
    rng, found = np.random.default_rng(0), list[NDArray]()
    for number in range(_RANDOM_ROWS):
        noise, scale = rng.standard_normal(shape), _SMOOTHING[number % len(_SMOOTHING)]
        if scale and len(shape) == 3:
            noise = gaussian_filter(noise, (0.0, scale * shape[1], scale * shape[2]), mode="nearest")
            noise = noise / (noise.std() + _TINY)
        found.append((_LEVEL + _CONTRAST * (noise + rng.standard_normal() / 2)).clip(0, 1))
    return np.asarray(found)
