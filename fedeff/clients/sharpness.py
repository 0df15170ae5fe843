"""How sharp a minimum is: how far the loss rises within a small box, and under random noise.

Two measures of the loss around given weights. Neither is invariant to a rescaling of layers that
leaves the network's function as it is, so they compare trainings of one architecture.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.evaluation import evaluate
from fedeff.clients.loop import mean_loss
from fedeff.clients.training import Array
from fedeff.clients.weights import load_weights

__all__ = ["box_maximum", "noise_sensitivity", "sharpness"]

Vector = np.ndarray[Any, np.dtype[np.float64]]
Objective = Callable[[Vector], tuple[float, Vector]]  # value and gradient at an offset
_BATCH = 256  # samples whose graph is held at a time


def sharpness(
    model: nn.Module,
    arrays: Mapping[str, Array],
    samples: Samples,
    *,
    rng: np.random.Generator,
    radius: float = 5e-4,
    runs: int = 5,
    iterations: int = 10,
) -> float:
    """The `(C_eps, A)` sharpness at the weights `arrays`, with `A` the whole space; in percent.

    `100 (max f(w + z) - f(w)) / (1 + f(w))` over `|z_i| <= radius (|w_i| + 1)`, with `f` the mean loss
    over all samples (Keskar et al., arXiv:1609.04836, metric 2.1). The maximum is the largest that
    `runs` runs of L-BFGS-B from random offsets find (Wen 2019, section 5.2), each of so many
    iterations, so it is a lower bound of the true one. Dropout is off and running statistics stay.
    `model` is overwritten. Not a number where the loss is none. Raises ConfigError where the arrays
    do not fit the model.
    """
    load_weights(model, arrays)
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = _flat(parameters)

    def objective(offset: Vector) -> tuple[float, Vector]:
        _put(parameters, weights + offset)
        return _loss(model, parameters, samples)

    here, _ = objective(np.zeros_like(weights))
    if not np.isfinite(here):
        return float("nan")
    reach = radius * (np.abs(weights) + 1)
    highest = box_maximum(objective, reach, runs=runs, iterations=iterations, rng=rng)
    return 100 * max(0.0, highest - here) / (1 + here)


def noise_sensitivity(
    model: nn.Module,
    arrays: Mapping[str, Array],
    samples: Samples,
    *,
    radius: float,
    draws: int,
    rng: np.random.Generator,
) -> float:
    """`(E f(w + theta) - f(w)) / radius` with `theta` from U(-radius, radius): Wen 2019, eq. 5.9.

    The expectation is the mean over so many draws, each at all samples, of noise on the trained
    parameters; `f` is the mean loss. Dropout is off and running statistics stay. `model` is
    overwritten. Raises ConfigError where the arrays do not fit it.
    """
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    here = evaluate(model, arrays, samples).loss
    total = 0.0
    for _ in range(draws):
        noisy = dict(arrays)
        for key in trained:
            noise = rng.uniform(-radius, radius, noisy[key].shape)
            noisy[key] = (noisy[key] + noise).astype(noisy[key].dtype)
        total += evaluate(model, noisy, samples).loss
    return (total / draws - here) / radius


def box_maximum(
    objective: Objective, reach: Vector, *, runs: int, iterations: int, rng: np.random.Generator
) -> float:
    """The largest value of the objective that is found within `|offset_i| <= reach_i`.

    Each run climbs from an offset that is uniform in the box; a convex objective, whose maxima are
    corners, may have many that are not the largest.
    """
    return max(_climbed(objective, reach, rng.uniform(-reach, reach), iterations) for _ in range(runs))


def _climbed(objective: Objective, reach: Vector, start: Vector, iterations: int) -> float:
    """The value that L-BFGS-B reaches from one offset."""
    slope = float(np.mean(np.abs(reach * objective(start)[1])))
    if not slope > 0:  # flat, or not a number
        return objective(start)[0]

    # In units of the box and of the slope, so that a first step crosses the box: L-BFGS-B begins with
    # a unit Hessian and learns none where it climbs a convex function, so its steps stay of that size.
    def scaled(place: Vector) -> tuple[float, Vector]:
        value, gradient = objective(place * reach)
        return -value / slope, -gradient * reach / slope

    unit = np.ones_like(reach)
    # Here, not above: SciPy takes a second to load, which every client that is deployed would wait for.
    from scipy.optimize import Bounds, minimize

    found = minimize(
        scaled,
        start / reach,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(-unit, unit),
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return -float(found.fun) * slope


def _loss(model: nn.Module, parameters: list[nn.Parameter], samples: Samples) -> tuple[float, Vector]:
    """The mean loss over all samples and its gradient, flat, in float64."""
    value, slopes = 0.0, [torch.zeros_like(p) for p in parameters]
    for x, y in zip(torch.split(samples.x, _BATCH), torch.split(samples.y, _BATCH), strict=True):
        loss = mean_loss(model(x), y) * (len(y) / len(samples))
        torch._foreach_add_(slopes, torch.autograd.grad(loss, parameters))
        value += float(loss.detach())
    return value, _flat(slopes)


def _flat(tensors: list[nn.Parameter] | list[torch.Tensor]) -> Vector:
    vector = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return vector.cpu().numpy().astype(np.float64)


def _put(parameters: list[nn.Parameter], vector: Vector) -> None:
    pieces = torch.split(torch.from_numpy(vector), [p.numel() for p in parameters])
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.copy_(piece.view(parameter.shape))
