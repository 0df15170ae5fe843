"""Vectors of layers, means without some, the basis, and the estimators that are a formula: by hand."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedeff.strategies.missing import Drift, FedVARP, History, Mean, Past, Stale
from fedeff.strategies.missing.basis import BASIS, DRIFT_CORRECTED, combined, grams
from fedeff.strategies.missing.history import without
from fedeff.strategies.missing.span_oracle import span_oracle


def test_arrays_of_a_layer_lie_next_to_each_other_and_come_back(layers):
    assert layers.names == ("a", "b")
    assert layers.slices == (slice(0, 8), slice(8, 12))
    arrays = {
        "a.weight": np.arange(6.0).reshape(2, 3),
        "b.weight": np.arange(10.0, 14.0),
        "a.bias": np.array([6.0, 7.0]),
    }
    vector = layers.vector(arrays)
    assert vector.dtype == np.float32
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13]
    for key, values in layers.arrays(vector).items():
        np.testing.assert_array_equal(values, arrays[key])


def past(server_round: int, *values: float, weight: float = 1.0, in_time: bool = True) -> Past:
    return Past(server_round, np.array(values, np.float32), weight, in_time)


def test_a_mean_without_some_is_that_of_the_others():
    mean = Mean(np.array([3.0, 1.0], np.float32), 4.0)  # of (6, 0) with weight 1, and (2, 4/3) with 3
    rest = without(mean, [past(1, 6.0, 0.0)])
    np.testing.assert_allclose(rest.update, [2.0, 4 / 3], rtol=1e-6)
    assert rest.weight == 3.0
    assert without(mean, [past(1, 3.0, 1.0, weight=4.0)]) is None
    np.testing.assert_array_equal(without(mean, []).update, mean.update)


def test_the_basis_leaves_the_client_out_of_both_means(make_situation):
    situation = make_situation()
    late = situation.history.latest[0]
    now, stale, then, way = situation.basis(late)
    assert now is situation.mean.update
    assert stale is late.update
    assert then is situation.history.means[2].update  # it was late then: no part of that mean
    np.testing.assert_array_equal(way, situation.model - situation.history.models[2])
    in_time = situation.history.latest[1]
    expected = without(situation.history.means[4], [in_time])
    np.testing.assert_array_equal(situation.basis(in_time)[2], expected.update)


def test_without_a_mean_of_then_no_drift_is_seen(make_situation):
    situation = make_situation()
    del situation.history.means[2]
    stale = situation.history.latest[0].update
    np.testing.assert_allclose(Drift().estimate(situation)[0], stale, rtol=1e-6)


def test_stale_drift_and_fedvarp_by_hand(make_situation):
    situation = make_situation()
    latest, now = situation.history.latest, situation.mean.update
    stale, then = latest[0].update, situation.history.means[2].update
    np.testing.assert_array_equal(Stale().estimate(situation)[0], stale)
    np.testing.assert_allclose(Drift().estimate(situation)[0], stale + now - then, rtol=1e-5, atol=1e-6)
    last = np.average([latest[n].update for n in (1, 2, 3)], axis=0, weights=[1, 2, 3])
    for share in (1.0, 0.3):
        found = FedVARP(share).estimate(situation)[0]
        np.testing.assert_allclose(found, now + share * (stale - last), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(FedVARP(0.0).estimate(situation)[0], now)


def test_gram_matrices_are_those_of_each_layer_and_pieces_make_no_difference(layers, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=layers.size).astype(np.float32) for _ in range(3)]
    stacked = np.stack(vectors).astype(np.float64)
    whole = grams(vectors, layers)
    for gram, layer in zip(whole, layers.slices, strict=True):
        np.testing.assert_allclose(gram, stacked[:, layer] @ stacked[:, layer].T, rtol=1e-12)
    monkeypatch.setattr("fedeff.strategies.missing.basis._CHUNK", 3)
    np.testing.assert_allclose(grams(vectors, layers), whole, rtol=1e-12)


def test_a_sum_takes_each_layers_own_coefficients(layers):
    ones, twos = np.ones(layers.size, np.float32), np.full(layers.size, 2, np.float32)
    found = combined(np.array([[1.0, 0.5], [0.0, -1.0]]), [ones, twos], layers)
    assert found.tolist() == [2.0] * 8 + [-2.0] * 4


def test_the_drift_corrected_coefficients_belong_to_the_basis():
    assert dict(zip(BASIS, DRIFT_CORRECTED.tolist(), strict=True)) == {
        "mean now": 1,
        "stale": 1,
        "mean then": -1,
        "way since then": 0,
    }


def test_a_history_forgets_old_updates_and_rounds_nobody_needs():
    history = History(horizon=3)
    history.keep({1: past(2, 1.0), 2: past(5, 1.0)})
    history.means = {number: Mean(np.zeros(1, np.float32), 1.0) for number in range(1, 6)}
    history.models = dict.fromkeys(range(1, 6), np.zeros(1, np.float32))
    history.forget(5, {4})
    assert set(history.latest) == {2}
    assert set(history.means) == set(history.models) == {4, 5}


@given(seed=st.integers(0, 999))
def test_the_span_oracle_is_nearer_than_any_other_point_of_the_span(make_situation, seed):
    situation = make_situation(seed)
    rng = np.random.default_rng(seed)
    stale = situation.history.latest[0]
    truth = rng.normal(size=situation.layers.size).astype(np.float32)
    best = span_oracle(situation, stale, truth)
    other = combined(rng.normal(size=(2, 4)), situation.basis(stale), situation.layers)
    nudged = best + 0.01 * other
    for layer in situation.layers.slices:
        nearest = np.linalg.norm(best[layer] - truth[layer])
        assert nearest <= np.linalg.norm(nudged[layer] - truth[layer]) + 1e-5
        assert nearest <= np.linalg.norm(Drift().estimate(situation)[0][layer] - truth[layer]) + 1e-5


def test_the_span_oracle_finds_what_lies_in_the_span(make_situation):
    situation = make_situation()
    stale = situation.history.latest[0]
    truth = combined(np.array([[1, -2, 0.5, 3], [0, 1, 1, 1.0]]), situation.basis(stale), situation.layers)
    np.testing.assert_allclose(span_oracle(situation, stale, truth), truth, rtol=1e-4, atol=1e-4)


def test_nothing_that_runs_reaches_the_oracle():
    code = "import fedeff.app.server, sys; print('fedeff.strategies.missing.span_oracle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
