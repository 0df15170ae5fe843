"""Labels from the last layer: rules on known answers, through masks, noise and several steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from audit.views import SmoothNet, digits, seeded, some_known, view_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.audit.attacks.labels import LabelInference, infer_labels, label_counts
from fedeff.audit.finding import Budget
from fedeff.audit.view import Told
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models import build


def _cnn(seed: int = 0) -> nn.Module:
    return build("cnn", input_shape=(1, 8, 8), seed=seed)


def _without_bias() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10, bias=False))


@pytest.mark.parametrize("make", [_cnn, lambda: seeded(SmoothNet), lambda: seeded(_without_bias)])
def test_one_label_is_exact(make):
    network = make()
    for seed in range(5):
        x, y = digits(1, seed)
        assert infer_labels(view_of(network, x, y)[0]).tolist() == y.tolist()


def test_one_label_is_exact_though_most_of_the_last_layer_is_unknown():
    network = _cnn()
    for seed in range(5):
        x, y = digits(1, seed)
        view, _ = view_of(network, x, y, known=some_known(network, 0.1, seed))
        assert infer_labels(view).tolist() == y.tolist()


def test_one_label_is_found_in_noise_as_strong_as_the_gradient_of_the_bias():
    network = _cnn()
    for seed in range(5):
        x, y = digits(1, seed)
        view, _ = view_of(network, x, y, kind="gradient", noise=0.02, seed=seed)
        assert infer_labels(view).tolist() == y.tolist()


@pytest.mark.parametrize("rows", [2, 8, 16])
def test_the_labels_of_a_batch_are_exact_on_a_fresh_network(rows):
    for seed in range(3):
        x, y = digits(rows, seed)
        assert infer_labels(view_of(_cnn(seed), x, y)[0]).tolist() == sorted(y.tolist())


def test_the_bias_alone_tells_the_labels_of_a_batch():
    network = _cnn()
    known = {key: np.zeros(value.shape, bool) for key, value in network.state_dict().items()}
    known["fc2.bias"][:] = True
    x, y = digits(8, 1)
    view, _ = view_of(network, x, y, known=known)
    assert infer_labels(view).tolist() == sorted(y.tolist())


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(epochs=5, batch_size=8, learning_rate=0.05),
        LocalTraining(steps=4, batch_size=8, optimizer="momentum", momentum=0.9, learning_rate=0.02),
    ],
)
def test_labels_are_found_through_several_steps(training):
    x, y = digits(8, 2)
    view, _ = view_of(_cnn(), x, y, training=training)
    assert infer_labels(view).tolist() == sorted(y.tolist())


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6))
def test_labels_are_as_many_as_rows_in_order_and_counts_sum_to_them(seed, rows):
    x, y = digits(rows, seed)
    view, _ = view_of(_cnn(), x, y, noise=1e-2, seed=seed)
    found = infer_labels(view)
    assert len(found) == rows
    assert found.tolist() == sorted(found.tolist())
    assert found.dtype == np.int64
    assert label_counts(view).sum() == pytest.approx(rows, abs=0.3 * rows)


def test_several_exchanges_tell_the_mean():
    x, y = digits(6)
    views = [view_of(_cnn(seed), x, y)[0] for seed in (0, 1)]
    both = replace(views[0], exchanges=(views[0].first, views[1].first))
    np.testing.assert_allclose(label_counts(both), (label_counts(views[0]) + label_counts(views[1])) / 2)


def test_the_attack_finds_what_the_function_does():
    x, y = digits(4)
    view, _ = view_of(_cnn(), x, y)
    finding = LabelInference().run(view, Budget(10), np.random.default_rng(0))
    assert finding.inputs is None
    assert finding.labels.tolist() == sorted(y.tolist())
    assert finding.converged


def test_what_stands_in_the_way_is_named():
    tokens = np.zeros((1, 5), np.int64)
    text, _ = view_of(build("gru", classes=90, input_shape=(5,)), tokens, tokens, classes=90)
    assert "text" in LabelInference().obstacle(text)
    pooled = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    bare, _ = view_of(pooled, *digits(1))
    assert "dense" in LabelInference().obstacle(bare)
    view, _ = view_of(_cnn(), *digits(1))
    silent = replace(view, exchanges=(replace(view.first, examples=0),))
    assert "how many rows" in LabelInference().obstacle(silent)
    with pytest.raises(AuditError, match="how many rows"):
        infer_labels(silent)


def test_torchs_random_numbers_are_left_alone():
    before = torch.random.get_rng_state()
    infer_labels(view_of(_cnn(), *digits(2))[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_clipping_does_not_hide_the_labels_of_a_batch():
    x, y = digits(6, 2)
    view, _ = view_of(_cnn(), x, y)
    short = {key: Told(told.values / 50) for key, told in view.first.told.items()}
    clipped = replace(view, exchanges=(replace(view.first, told=short, clipping_norm=1e-3),))
    assert infer_labels(clipped).tolist() == sorted(y.tolist())
