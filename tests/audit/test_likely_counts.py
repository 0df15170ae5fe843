"""Counts of classes by what is likely to go into a last layer: known answers, naive twins, limits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from audit.views import digits, view_of
from torch import nn

from fedeff.audit.attacks.labels import infer_labels, likely_labels
from fedeff.audit.gradients.last_layer import Head
from fedeff.audit.gradients.likely_counts import _fitted, _narrowed, tells_likely_counts
from fedeff.models import build


def _head(classes: int = 4, width: int = 6, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    gradient = rng.standard_normal((classes, 1 + width)) / 10
    weight = rng.standard_normal((classes, 1 + width))
    drawn = rng.standard_normal((40, width))
    return Head(gradient, weight, np.append(1.0, drawn.mean(axis=0)), drawn, 0.0, 0.0, False)


def _trained(rounds: int = 15) -> nn.Module:
    """A small network after some steps of plain SGD: no longer fresh, far from done."""
    network = build("mlp", input_shape=(1, 8, 8), seed=0)
    for step in range(rounds):
        x, y = digits(64, 1000 + step)
        loss = nn.functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    return network


@pytest.mark.parametrize("rows", [2, 8])
def test_the_labels_of_a_batch_are_exact_on_a_network_that_has_learned(rows):
    network = _trained()
    for seed in range(4):
        x, y = digits(rows, seed)
        assert infer_labels(view_of(network, x, y)[0]).tolist() == sorted(y.tolist())


def test_given_probabilities_the_counts_are_those_of_brute_force():
    rng = np.random.default_rng(2)
    for rows in (1, 2, 3):
        chances = rng.dirichlet(np.full(4, 3.0), 4)
        every = [np.array(one) for one in itertools.product(range(rows + 1), repeat=4) if sum(one) == rows]
        for truth in every:
            by_logits = (truth @ chances - truth) / rows
            off = [float(np.linalg.norm(one @ chances - one - rows * by_logits)) for one in every]
            best = every[int(np.argmin(off))]
            assert np.rint(_fitted(chances, by_logits, rows)).tolist() == best.tolist() == truth.tolist()


def test_slopes_are_those_of_finite_differences():
    small = _narrowed(_head())
    rng, step = np.random.default_rng(3), 1e-6
    means, moved = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    _, _, slopes = small.expected(means)
    beyond, before = (small.expected(means + sign * step * moved)[1] for sign in (1, -1))
    expected = (beyond - before) / (2 * step)
    np.testing.assert_allclose(np.einsum("cijn,cn->cij", slopes, moved), expected, atol=1e-8)


def test_in_all_directions_the_narrowed_layer_is_the_layer():
    head = _head()
    small = _narrowed(head)
    assert small.usual.shape == (6,)
    whole = replace(head, gradient=small.gradient, weight=small.weight)
    ours = whole.probabilities(np.append(1.0, small.usual)[None])
    np.testing.assert_allclose(ours, head.probabilities(head.usual[None]))
    assert np.linalg.norm(small.gradient) == pytest.approx(np.linalg.norm(head.gradient))


def test_noise_clipping_and_gaps_are_left_to_others():
    head = _head()
    assert tells_likely_counts(head)
    gap = head.gradient.copy()
    gap[1, 2] = np.nan
    for other in (replace(head, gradient=gap), replace(head, shortened=True), replace(head, std=0.1)):
        assert not tells_likely_counts(other)


def _strongly_drawn(seed: int) -> nn.Module:
    """A network whose last layer reads other things than random inputs make one think."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 12, 5, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 10))
    for values in network.parameters():
        nn.init.uniform_(values, -0.5, 0.5)
    return network


@pytest.mark.parametrize("seed", range(3))
def test_the_labels_of_a_batch_are_among_those_of_both_ways(seed):
    """The way that is nearer to whole numbers comes first, and the other where it says something else."""
    x, y = digits(8, seed)
    view, _ = view_of(_strongly_drawn(seed), x, y)
    found = likely_labels(view)
    assert any(np.array_equal(np.sort(y), one) for one in found)
    assert len(found) == len({one.tobytes() for one in found}) <= 2
    np.testing.assert_array_equal(found[0], infer_labels(view))


def test_two_ways_that_agree_are_tried_once():
    x, y = digits(8, 0)
    view, _ = view_of(build("mlp", input_shape=(1, 8, 8), seed=0), x, y)
    assert len(likely_labels(view)) == 1
