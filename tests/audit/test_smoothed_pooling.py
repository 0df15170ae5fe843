"""A pooled layer's input by way of smoothed maxima."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.audit.attacks.dense_front import Gradient
from fedeff.audit.attacks.layers.layer_chain import chain_of
from fedeff.audit.attacks.layers.layer_patches import Patches, patches_of
from fedeff.audit.attacks.layers.layer_solve import Outcome
from fedeff.audit.attacks.layers.smoothed_pooling import _Path, _Stage, followed
from fedeff.audit.finding import Budget
from tests.audit.views import digits, seeded

RANGE = (0.0, 1.0)


def layer(*pooling: nn.Module, channels: int = 1) -> Patches:
    """The patches of a first convolution, 8 filters on 8x8 pixels."""
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), *pooling, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)
        )
    ).double()
    network(torch.zeros(1, channels, 8, 8).double())
    return patches_of(chain_of(network, (channels, 8, 8))[0])


def problem(x: Tensor) -> tuple[Patches, Gradient, Outcome]:
    """What is known of a layer that read x; its outputs were pooled by the largest of four and rectified."""
    patches = layer(nn.MaxPool2d(2))
    z, at = (patches.of(x) @ patches.weight.T + patches.bias).max(1)
    back = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double() * (z > 0)
    spread = F.one_hot(at, 4).transpose(1, 2) * back[:, None]
    told = (spread.flatten(0, 1).T @ patches.of(x).flatten(0, 1)).numpy()
    return patches, Gradient(told, np.ones(told.shape, bool), 0.0), Outcome(z.relu(), z > 0, z <= 0, back)


def digit(seed: int) -> Tensor:
    return torch.from_numpy(np.asarray(digits(1, seed=seed)[0], np.float64))[0]


def uneven() -> Tensor:
    return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("seed", range(2))
def test_a_pooled_layers_input_is_found_within_its_range(seed: int) -> None:
    x = digit(seed)
    start = torch.full_like(x, 0.5)
    found = followed(*problem(x), start, RANGE, Budget(60))
    assert float((found.x - x).abs().max()) < 1e-4
    assert found.error < 1e-4
    assert found.iterations > 0


def test_what_comes_back_is_the_gradient_of_the_input() -> None:
    """Of an input without even patches, where several places are the largest."""
    x = uneven().requires_grad_()
    patches, told, outcome = problem(x.detach())
    z = (patches.of(x) @ patches.weight.T + patches.bias).amax(1)
    (truth,) = torch.autograd.grad((z * outcome.back).sum(), x)
    found = followed(patches, told, outcome, torch.full_like(x.detach(), 0.5), RANGE, Budget(60))
    torch.testing.assert_close(found.back, truth, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", [_Stage(0.5, variation=0.1), _Stage(0.0, robust=0.01, gradient=True)])
def test_a_step_goes_by_the_slope_of_the_errors_and_its_transpose(stage: _Stage) -> None:
    """The linear map against finite differences of its errors, and both ways alike."""
    x = uneven() * 1.2 - 0.1  # some pixels are out of range
    path = _Path(*problem(digit(2)), RANGE)
    near = path._near(x, stage)
    system, errors = path._linear(x, near, stage)
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal(x.numel()), rng.standard_normal(len(errors))
    assert w @ (system @ v) == pytest.approx(v @ (system.T @ w), rel=1e-9)
    small = 1e-6
    losses = [
        path._loss(path._near(x + sign * small * torch.from_numpy(v).reshape(x.shape), stage), stage)
        for sign in (1, -1)
    ]
    # Outputs' weights hold still under a step; their slope is that of the robust loss all the same.
    assert 2 * errors @ (system @ v) == pytest.approx((losses[0] - losses[1]) / (2 * small), rel=1e-4)


def test_nothing_is_begun_once_the_budget_is_spent() -> None:
    x = digit(0)
    start = torch.full_like(x, 0.5)
    found = followed(*problem(x), start, RANGE, Budget(0.0))
    torch.testing.assert_close(found.x, start)


@pytest.mark.parametrize("pooling", [(), (nn.MaxPool2d(2),), (nn.AvgPool2d(2),)], ids=["none", "max", "mean"])
def test_outputs_are_those_of_the_patches_both_ways(pooling: tuple[nn.Module, ...]) -> None:
    patches = layer(*pooling, channels=2)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 8, generator=draws).double()
    outputs = patches.of(x) @ patches.weight.T
    torch.testing.assert_close(patches.outputs(x), outputs)
    z = torch.randn(outputs.shape, generator=draws).double()
    torch.testing.assert_close(patches.outputs_back(z), patches.back(z @ patches.weight))
