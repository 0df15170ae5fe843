"""Labels, the loss of Gram matrices, ridge regression, the network and its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.strategies.missing import Past, Ridge
from fedeff.strategies.missing.basis import BASIS, DRIFT_CORRECTED, combined, grams
from fedeff.strategies.missing.features import feature_count, features_of
from fedeff.strategies.missing.gram_loss import gram_loss
from fedeff.strategies.missing.history import without
from fedeff.strategies.missing.labels import TOGETHER, Erasures, labels_of, late_labels
from fedeff.strategies.missing.mlp import Adam, Mlp
from fedeff.strategies.missing.ridge import ridge


def cases_of(situation, seed=0):
    """Client 0 and the last updates of two others, each with a truth drawn from the seed."""
    rng = np.random.default_rng(seed)
    latest = situation.history.latest
    truths = [rng.normal(size=situation.layers.size).astype(np.float32) for _ in range(3)]
    return [(n, latest[n], Past(5, truth, 1.0 + n)) for n, truth in zip((0, 1, 2), truths, strict=True)]


# --- labels ---------------------------------------------------------------------------------------


def test_labels_hold_every_inner_product(make_situation):
    situation = make_situation()
    cases = cases_of(situation)
    labels = labels_of(situation, cases)
    vectors = [v for _, stale, truth in cases for v in (*situation.basis(stale), truth.update)]
    np.testing.assert_allclose(labels.gram, grams(vectors, situation.layers))
    assert (labels.nodes, labels.basis, len(labels)) == ((0, 1, 2), len(BASIS), 3)
    own = grams([*situation.basis(cases[1][1]), cases[1][2].update], situation.layers)
    np.testing.assert_allclose(labels.blocks()[1], own)
    expected = features_of(own[:, :-1, :-1], staleness=1)
    np.testing.assert_allclose(labels.features[1], expected)


def test_a_late_update_is_a_label_of_the_round_in_which_it_was_asked(make_situation):
    situation = make_situation()
    rng = np.random.default_rng(1)
    late = Past(4, rng.normal(size=situation.layers.size).astype(np.float32), 5.0, in_time=False)
    stale = situation.history.latest[0]
    told = replace(situation, late={0: late, 7: late}, stale_of_late={0: stale})
    (labels,) = late_labels(told)  # of client 7 nothing was known
    assert labels.nodes == (0,)
    asked = replace(
        situation,
        server_round=4,
        mean=situation.history.means[4],
        model=situation.history.models[4],
    )
    np.testing.assert_allclose(labels.gram, grams([*asked.basis(stale), late.update], situation.layers))
    np.testing.assert_allclose(labels.features[0], features_of(labels.gram[:, :4, :4], staleness=2))


def test_erased_clients_are_in_neither_mean(make_situation):
    situation = make_situation(came=12)
    rng = np.random.default_rng(0)
    labels = Erasures(drawn=4).labels(situation, rng)
    assert len(labels) == 4
    came = situation.came
    rest = without(situation.mean, [came[node] for node in labels.nodes])
    erased = replace(situation, mean=rest)
    cases = [(node, situation.history.latest[node], came[node]) for node in labels.nodes]
    np.testing.assert_allclose(labels.gram, labels_of(erased, cases).gram)


def test_where_nobody_is_left_there_is_no_label(make_situation):
    assert Erasures().labels(make_situation(came=3), np.random.default_rng(0)) is None


def test_held_updates_are_labels_when_they_are_as_old_as_those_of_the_missing(make_situation):
    """Client 0 is missing since three rounds: what is held in round 5 is ripe in round 8."""
    erasures, rng = Erasures(drawn=2), np.random.default_rng(0)
    first = make_situation(came=12)
    erasures.hold(first, rng)
    held = {node: one for node, (_, one) in erasures._held.items()}
    assert len(held) == 2
    assert erasures.needed_rounds() == {5}
    assert all(first.came[node] is one for node, one in held.items())
    erasures.labels(make_situation(came=12, server_round=7), rng)
    assert erasures._held.keys() == held.keys()
    eighth = make_situation(came=12, server_round=8)
    labels = erasures.labels(eighth, rng)
    assert set(labels.nodes) == set(held)
    for place, node in enumerate(labels.nodes):
        block = labels.blocks()[place]
        expected = grams([held[node].update, eighth.came[node].update], eighth.layers)
        np.testing.assert_allclose(block[:, [1, 4]][:, :, [1, 4]], expected)
    assert not erasures._held


def test_nothing_is_held_where_last_updates_are_as_old(make_situation):
    erasures = Erasures()
    erasures.hold(make_situation(since=4), np.random.default_rng(0))
    assert not erasures._held
    waiting = replace(make_situation(), missing=(), waits=(6,))
    erasures.hold(waiting, np.random.default_rng(0))
    assert len(erasures._held) == len(waiting.came)
    erasures.forget(6)
    assert not erasures._held


# --- the loss -------------------------------------------------------------------------------------


def explicit_loss(coefficients, situation, cases):
    """The same from whole vectors."""
    shares = np.array([truth.weight for *_, truth in cases])
    shares /= shares.sum()
    estimates = [
        combined(a, situation.basis(stale), situation.layers)
        for a, (_, stale, _) in zip(coefficients, cases, strict=True)
    ]
    truths = [truth.update for *_, truth in cases]
    total = 0.0
    for layer in situation.layers.slices:
        squares = np.array([np.sum(truth[layer].astype(float) ** 2) for truth in truths])
        wrongs = [np.sum((e[layer] - t[layer]) ** 2) for e, t in zip(estimates, truths, strict=True)]
        total += np.mean(wrongs / (squares + 1e-3 * squares.mean()))
        sums = [shares @ np.stack(vectors)[:, layer] for vectors in (estimates, truths)]
        total += np.sum((sums[0] - sums[1]) ** 2) / (np.sum(sums[1] ** 2) + 1e-3 * squares.mean())
    return total / len(situation.layers.slices)


@given(seed=st.integers(0, 999))
def test_the_loss_of_gram_matrices_is_that_of_the_vectors(make_situation, seed):
    situation = make_situation(seed)
    cases = cases_of(situation, seed)
    coefficients = np.random.default_rng(seed).normal(size=(3, 2, 4))
    loss, _ = gram_loss(coefficients, labels_of(situation, cases))
    assert loss == pytest.approx(explicit_loss(coefficients, situation, cases), rel=1e-3)


@given(seed=st.integers(0, 999))
def test_its_gradient_is_that_of_differences(make_situation, seed):
    situation = make_situation(seed)
    labels = labels_of(situation, cases_of(situation, seed))
    rng = np.random.default_rng(seed)
    coefficients, direction = rng.normal(size=(2, 3, 2, 4))
    _, slope = gram_loss(coefficients, labels)
    step = 1e-5
    above, _ = gram_loss(coefficients + step * direction, labels)
    below, _ = gram_loss(coefficients - step * direction, labels)
    assert np.sum(slope * direction) == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-7)


def test_errors_are_squared_distances(make_situation):
    situation = make_situation()
    cases = cases_of(situation)
    coefficients = np.random.default_rng(3).normal(size=(3, 2, 4))
    distances, squares = labels_of(situation, cases).errors(coefficients)
    for place, (_, stale, truth) in enumerate(cases):
        wrong = combined(coefficients[place], situation.basis(stale), situation.layers) - truth.update
        for number, layer in enumerate(situation.layers.slices):
            assert distances[place, number] == pytest.approx(np.sum(wrong[layer] ** 2), rel=1e-4)
            assert squares[place, number] == pytest.approx(np.sum(truth.update[layer] ** 2), rel=1e-5)


# --- features -------------------------------------------------------------------------------------


def test_features_by_hand():
    gram = np.array([[[4.0, 3.0], [3.0, 9.0]]])
    np.testing.assert_allclose(features_of(gram, 0), [[0.5, np.log(1.5), 1 / 3, 0.0, 1.0]])


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_features_do_not_depend_on_the_scale_and_are_finite(make_situation, seed, scale):
    situation = make_situation(seed)
    gram = grams(situation.basis(situation.history.latest[0]), situation.layers)
    found = features_of(gram, 3)
    assert found.shape == (2, feature_count(2, 4))
    np.testing.assert_allclose(features_of(gram * scale, 3), found, rtol=1e-6, atol=1e-9)
    gram[:, 2] = gram[:, :, 2] = 0.0  # a vector that is zero
    assert np.isfinite(features_of(gram, 3)).all()
    assert np.abs(features_of(gram, 3)).max() <= 4.0


# --- ridge ----------------------------------------------------------------------------------------


def test_ridge_finds_the_coefficients_that_made_the_truth_and_a_strong_penalty_none(make_situation):
    made = np.array([[0.5, 0.7, -0.2, 0.1], [1.0, 0.3, 0.0, -0.4]])
    found = []
    for seed in range(4):
        situation = make_situation(seed)
        cases = []
        for node in (0, 1, 2):
            stale = situation.history.latest[node]
            truth = combined(made, situation.basis(stale), situation.layers)
            cases.append((node, stale, Past(5, truth, 1.0)))
        found.append(labels_of(situation, cases))
    np.testing.assert_allclose(ridge(found, 1e-9), made, atol=1e-4)
    np.testing.assert_allclose(ridge(found, 1e9), [DRIFT_CORRECTED] * 2, atol=1e-6)


def test_ridge_is_the_minimum_of_what_it_says(make_situation):
    situation = make_situation()
    labels = labels_of(situation, cases_of(situation))

    def value(coefficients):
        wrong, norms = labels.errors(np.broadcast_to(coefficients, (3, 2, 4)))
        return (wrong / norms).mean(axis=0) + 0.1 * np.sum((coefficients - DRIFT_CORRECTED) ** 2, axis=1)

    best = ridge([labels], 0.1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert (value(best + 0.01 * rng.normal(size=(2, 4))) > value(best)).all()


def test_without_labels_ridge_is_drift_corrected(make_situation):
    situation = make_situation()
    now, stale, then, _ = situation.basis(situation.history.latest[0])
    np.testing.assert_allclose(Ridge().estimate(situation)[0], now + stale - then, rtol=1e-5, atol=1e-6)


def test_ridge_keeps_so_many_labels(make_situation):
    estimator = Ridge(buffer=2 * TOGETHER * 3)
    for seed in range(5):
        estimator.learn(make_situation(seed, came=12))
    assert [len(one) for one in estimator._labels] == [TOGETHER] * 3
    with pytest.raises(ConfigError, match="penalty is 0"):
        Ridge(penalty=0)


# --- the network ----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 4))
def test_the_networks_gradient_is_autograds(seed, rows):
    rng = np.random.default_rng(seed)
    network = Mlp.initial(5, 7, 3, rng)
    network.parameters["w2"] += rng.normal(size=(7, 3))
    x, outer = rng.normal(size=(rows, 2, 5)), rng.normal(size=(rows, 2, 3))
    theirs = {name: torch.tensor(values, requires_grad=True) for name, values in network.parameters.items()}
    out = torch.tanh(torch.tensor(x) @ theirs["w1"] + theirs["b1"]) @ theirs["w2"] + theirs["b2"]
    np.testing.assert_allclose(network(x), out.detach().numpy(), rtol=1e-10, atol=1e-12)
    (out * torch.tensor(outer)).sum().backward()
    for name, slope in network.gradient(x, outer).items():
        np.testing.assert_allclose(slope, theirs[name].grad.numpy(), rtol=1e-9, atol=1e-12)


def test_a_new_network_answers_nothing():
    network = Mlp.initial(4, 8, 3, np.random.default_rng(0))
    assert not network(np.random.default_rng(1).normal(size=(5, 4))).any()


def test_adam_is_torchs():
    rng = np.random.default_rng(0)
    mine = {"w": rng.normal(size=(3, 2))}
    theirs = torch.tensor(mine["w"].copy(), requires_grad=True)
    adam, reference = Adam(0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(6):
        slope = rng.normal(size=(3, 2))
        theirs.grad = torch.tensor(slope)
        adam.step(mine, {"w": slope})
        reference.step()
    np.testing.assert_allclose(mine["w"], theirs.detach().numpy(), rtol=1e-10)
