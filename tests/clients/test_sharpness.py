"""Sharpness where it is known: quadratics, and losses that are functions of one margin."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.sharpness import box_maximum, noise_sensitivity, sharpness
from fedeff.core.errors import ConfigError


def quadratic(hessian, slope):
    return lambda z: (float(z @ hessian @ z / 2 + slope @ z), hessian @ z + slope)


def found(objective, reach, runs=20, iterations=20):
    return box_maximum(objective, reach, runs=runs, iterations=iterations, rng=np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_the_maximum_of_a_convex_quadratic_is_its_best_corner(seed, scale):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((6, 6))
    hessian, slope, reach = scale * root @ root.T, scale * rng.standard_normal(6), rng.uniform(0.1, 1, 6)
    objective = quadratic(hessian, slope)
    corners = [objective(reach * signs)[0] for signs in itertools.product((-1, 1), repeat=6)]
    assert found(objective, reach) == pytest.approx(max(corners), rel=1e-9)


def test_the_maximum_of_a_concave_quadratic_lies_inside_or_at_a_side():
    # -2 z^2 + z peaks at 1/4 with 1/8; -z^2 + 3 z rises to the side z = 1/2: 1.25; slope 0 peaks at 0
    objective = quadratic(np.diag([-4.0, -2.0, -1.0]), np.array([1.0, 3.0, 0.0]))
    assert found(objective, np.full(3, 0.5)) == pytest.approx(0.125 + 1.25, rel=1e-9)


def test_every_run_counts_and_none_leaves_the_box():
    reach, seen = np.array([0.1, 2.0]), []

    def objective(z):
        seen.append(z)
        return quadratic(np.eye(2), np.array([0.05, 0.0]))(z)

    assert found(objective, reach, runs=8) == pytest.approx(0.005 + 0.005 + 2.0)
    assert all((np.abs(z) <= reach * (1 + 1e-12)).all() for z in seen)


@pytest.mark.parametrize("value", [3.0, math.nan])
def test_a_flat_objective_is_as_high_as_it_is(value):
    assert found(lambda z: (value, np.zeros(2)), np.ones(2)) == pytest.approx(value, nan_ok=True)


class Margin(nn.Module):
    """Class 0 is worth `w'x`, class 1 nothing: with label 0 the loss is `log(1 + exp(-w'x))`."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return torch.stack([x @ self.w, torch.zeros(len(x), dtype=torch.float64)], 1)


def samples_of(*rows):
    x = torch.tensor(np.array(rows), dtype=torch.float64)
    return Samples(x, torch.zeros(len(x), dtype=torch.int64))


def arrays_of(model):
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def test_sharpness_of_a_loss_that_falls_with_one_margin():
    """The box's worst offset goes against x in every weight: the margin falls by sum |x_i| r (|w_i| + 1)."""
    model, x = Margin([0.5, -2.0, 0.0]), [1.0, -0.5, 3.0]
    reach = 0.01 * (1.5 * 1.0 + 3.0 * 0.5 + 1.0 * 3.0)
    here, highest = (math.log1p(math.exp(-margin)) for margin in (1.5, 1.5 - reach))
    measured = sharpness(model, arrays_of(model), samples_of(x), rng=np.random.default_rng(0), radius=0.01)
    assert measured == pytest.approx(100 * (highest - here) / (1 + here), rel=1e-6)


def test_samples_in_several_batches_make_one_mean(monkeypatch):
    model, samples = Margin([0.5, -2.0]), samples_of(*np.random.default_rng(1).standard_normal((30, 2)))

    def measured():
        return sharpness(model, arrays_of(Margin([0.5, -2.0])), samples, rng=np.random.default_rng(0))

    whole = measured()
    monkeypatch.setattr("fedeff.clients.sharpness._BATCH", 7)
    assert measured() == pytest.approx(whole, rel=1e-9)
    assert whole > 0


class Bowl(nn.Module):
    """A loss of `log 2 + scale sum(a w^2) / 2`, up to order scale^2: its logits differ by the sum."""

    def __init__(self, a, scale=1e-3):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(a), dtype=torch.float64))
        self.a, self.scale = torch.tensor(a, dtype=torch.float64), scale

    def forward(self, x):
        worth = self.scale * (self.a * self.w.square()).sum()
        return torch.stack([-worth, worth * 0]).expand(len(x), 2)


def test_noise_sensitivity_of_a_quadratic_is_a_sixth_of_its_trace_times_the_radius():
    """The mean of `theta^2` is `radius^2 / 3`, so `E f - f` is `radius^2 sum(a) / 6`."""
    a = np.linspace(-1.0, 3.0, 400)
    model, radius = Bowl(a.tolist()), 0.1
    measured = noise_sensitivity(
        model, arrays_of(model), samples_of([0.0]), radius=radius, draws=200, rng=np.random.default_rng(0)
    )
    assert measured == pytest.approx(model.scale * radius * a.sum() / 6, rel=0.02)


def test_dropout_is_off_statistics_stay_and_the_arrays_too(make_model, make_samples):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 10)
    )
    start, samples = arrays_of(model), make_samples("mlp", 20)
    before = {key: values.copy() for key, values in start.items()}
    for measure in (
        lambda: sharpness(model, start, samples, rng=np.random.default_rng(0), runs=1),
        lambda: noise_sensitivity(model, start, samples, radius=0.1, draws=2, rng=np.random.default_rng(0)),
    ):
        assert measure() == measure() != 0
        assert model[2].num_batches_tracked == 0
    assert all(np.array_equal(values, before[key]) for key, values in start.items())


@pytest.mark.parametrize("name", ["mlp", "cnn", "gru"])
def test_models_of_every_kind_have_a_sharpness(name, make_model, make_samples):
    model, samples = make_model(name), make_samples(name, 12)
    small, large = (
        sharpness(
            model,
            arrays_of(model),
            samples,
            rng=np.random.default_rng(0),
            runs=1,
            iterations=2,
            radius=radius,
        )
        for radius in (1e-4, 1e-3)
    )
    assert 0 < small < large


def test_arrays_of_another_model_are_refused():
    with pytest.raises(ConfigError, match="missing"):
        sharpness(Margin([1.0]), {}, samples_of([1.0]), rng=np.random.default_rng(0))


def test_a_model_that_diverged_has_no_sharpness():
    model = Margin([math.nan])
    assert math.isnan(sharpness(model, arrays_of(model), samples_of([1.0]), rng=np.random.default_rng(0)))
