"""Inputs by division: exact where a neuron is one row's alone."""

import numpy as np
import pytest
from audit.views import SmoothNet, digits, psnr, seeded, some_known, view_of
from torch import nn

from fedeff.audit.attacks.phong import Phong, first_dense
from fedeff.audit.finding import Budget
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
