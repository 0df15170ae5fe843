"""Inputs by division: exact where a neuron is one row's alone."""

import numpy as np
import pytest
from audit.views import SmoothNet, digits, largest_known, psnr, seeded, some_known, view_of
from torch import nn

from fedeff.audit.attacks.phong import Phong, first_dense
from fedeff.audit.finding import Budget
from fedeff.audit.gradients.last_layer import gradient_bounds_of, mean_gradient_of
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models import build


def _mlp(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def _run(view):
    return Phong().run(view, Budget(10), np.random.default_rng(0))


def test_one_row_is_exact_to_the_wire():
    x, y = digits(1)
    finding = _run(view_of(build("mlp", input_shape=(1, 8, 8)), x, y)[0])
    assert psnr(finding.inputs, x) > 100
    assert finding.labels.tolist() == y.tolist()
    exact = _run(view_of(build("mlp", input_shape=(1, 8, 8)), x, y, exact=True)[0])
    assert psnr(exact.inputs, x) > 250


def test_one_row_is_exact_though_most_is_unknown():
    network = build("mlp", input_shape=(1, 8, 8))
    x, y = digits(1)
    known = some_known(network, 0.3)
    assert psnr(_run(view_of(network, x, y, known=known)[0]).inputs, x) > 60


def test_a_first_layer_of_classes_is_divided_too():
    x, y = digits(1)
    assert psnr(_run(view_of(build("logistic", input_shape=(1, 8, 8)), x, y)[0]).inputs, x) > 60


def test_of_several_rows_those_that_have_neurons_of_their_own_are_found():
    x, y = digits(3)
    finding = _run(view_of(seeded(lambda: _mlp(512)), x, y)[0])
    assert len(finding.inputs) == 3
    exact = [max(psnr(one, row) for one in finding.inputs) > 40 for row in x]
    assert sum(exact) >= 2
    assert finding.labels is None


def test_several_steps_on_one_row_still_tell_it():
    x, y = digits(1)
    training = LocalTraining(epochs=5, batch_size=1, learning_rate=0.05)
    assert psnr(_run(view_of(build("mlp", input_shape=(1, 8, 8)), x, y, training=training)[0]).inputs, x) > 60


def test_noise_is_averaged_over_neurons():
    x, y = digits(1)
    view, _ = view_of(seeded(lambda: _mlp(512)), x, y, kind="gradient", noise=1e-3)
    assert 15 < psnr(_run(view).inputs, x) < 60


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (SmoothNet, "does not begin"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)), "does not begin"),
    ],
)
def test_networks_that_begin_otherwise_are_refused(make, named):
    view, _ = view_of(seeded(make), *digits(1))
    assert first_dense(view) is None
    assert named in Phong().obstacle(view)
    with pytest.raises(AuditError, match=named):
        _run(view)


def test_what_no_neuron_tells_is_the_middle_of_what_it_can_be():
    x, y = digits(1)
    view = largest_known(view_of(build("mlp", input_shape=(1, 8, 8)), x, y)[0], 0.05)
    weight = view.first.told["fc1.weight"]
    untold = ~weight.known.any(axis=0)
    assert 0 < untold.sum() < 64
    off = np.abs(_run(view).inputs - x).ravel()
    assert off[~untold].max() < 1e-3
    # An entry x makes a change of rate * slope * x in each neuron, which was not sent: so it is small.
    rate, slopes = view.first.training.learning_rate, _slopes(view)
    most = np.nanmin(weight.within / (rate * np.abs(slopes)))
    assert off[untold].max() <= min(most, 1.0) / 2 + 1e-3


def _slopes(view):
    bias = view.first.told["fc1.bias"]
    return np.where(bias.known, -bias.values / view.first.training.learning_rate, np.nan)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_bounds_of_a_change_are_bounds_of_the_gradient(weight_decay):
    x, y = digits(1)
    network = build("mlp", input_shape=(1, 8, 8))
    training = LocalTraining(batch_size=1, learning_rate=0.05, weight_decay=weight_decay)
    whole = view_of(network, x, y, training=training, exact=True)[0]
    (plain,) = [mean_gradient_of(whole.first, "fc1.weight", 1)[0]]
    some = largest_known(whole)
    least, largest = gradient_bounds_of(some.first, "fc1.weight", 1)
    left_out = ~some.first.told["fc1.weight"].known
    assert np.all(np.isinf(least[~left_out]))
    assert np.all((least <= plain) & (plain <= largest))
    assert np.isfinite(largest[left_out]).all()
