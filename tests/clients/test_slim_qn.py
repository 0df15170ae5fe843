"""SLIM-QN against L-BFGS written with whole matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_loop
from fedeff.clients.optimisers import Optimiser
from fedeff.clients.slim_qn import LayerCurvature, Pair, damped, two_loop
from fedeff.clients.training import Moments


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("s", "y", "expected"),
    [
        # s's = 1; curvature 1 and the bounds themselves are left alone
        ((1.0, 0.0), (1.0, 5.0), (1.0, 5.0)),
        ((1.0, 0.0), (1.5, 5.0), (1.5, 5.0)),
        ((1.0, 0.0), (0.01, 5.0), (0.01, 5.0)),
        # 3.5: phi = 0.5 / 2.5 = 0.2, y = 0.2 (3.5, 5) + 0.8 (1, 0)
        ((1.0, 0.0), (3.5, 5.0), (1.5, 1.0)),
        # -0.98: phi = 0.99 / 1.98 = 0.5, y = 0.5 (-0.98, 4) + 0.5 (1, 0)
        ((1.0, 0.0), (-0.98, 4.0), (0.01, 2.0)),
        # s's = 4, s'y = 14: curvature 3.5 again
        ((2.0, 0.0), (7.0, 10.0), (3.0, 2.0)),
        # nothing moved
        ((0.0, 0.0), (1.0, 2.0), (1.0, 2.0)),
    ],
)
def test_damping_by_hand(s, y, expected):
    np.testing.assert_allclose(damped(vector(*s), vector(*y), 0.01), expected, rtol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 8),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    low=st.floats(0.001, 0.999),
)
def test_damped_pairs_have_curvature_within_the_bounds(seed, size, scale, low):
    rng = np.random.default_rng(seed)
    s, y = (torch.from_numpy(rng.standard_normal(size)) for _ in range(2))
    found = damped(s, scale * y, low)
    curvature = float(s @ found) / float(s @ s)
    assert low - 1e-9 <= curvature <= 1.5 + 1e-9


def dense_inverse(pairs, size):
    """The inverse Hessian of BFGS, update by update, from `s'y / y'y` of the last pair (N&W eq. 6.17)."""
    s, y = pairs[-1]
    matrix = (s @ y) / (y @ y) * np.eye(size)
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = np.eye(size) - rho * np.outer(s, y)
        matrix = left @ matrix @ left.T + rho * np.outer(s, s)
    return matrix


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 6), count=st.integers(1, 8))
def test_the_two_loops_are_the_dense_recursion(seed, size, count):
    rng = np.random.default_rng(seed)
    hessian = np.cov(rng.standard_normal((size, 3 * size + 3))).reshape(size, size) + 0.1 * np.eye(size)
    pairs = [(s, hessian @ s) for s in rng.standard_normal((count, size))]
    gradient = rng.standard_normal(size)
    own = [Pair.of(torch.from_numpy(s), torch.from_numpy(y)) for s, y in pairs]
    found = two_loop(torch.from_numpy(gradient), own).numpy()
    np.testing.assert_allclose(found, dense_inverse(pairs, size) @ gradient, rtol=1e-6, atol=1e-8)


def test_conjugate_pairs_of_a_quadratic_give_newtons_step():
    hessian = np.diag([0.5, 1.0, 1.5])
    own = [Pair.of(torch.from_numpy(s), torch.from_numpy(hessian @ s)) for s in np.eye(3)]
    gradient = vector(1.0, -2.0, 3.0)
    np.testing.assert_allclose(two_loop(gradient, own), np.linalg.solve(hessian, gradient.numpy()))


def test_pairs_without_curvature_are_passed_over():
    gradient, zero = vector(1.0, 2.0), vector(0.0, 0.0)
    still = Pair.of(zero, vector(1.0, 1.0))
    real = Pair.of(vector(1.0, 0.0), vector(2.0, 0.0))
    assert torch.equal(two_loop(gradient, [still]), gradient)
    assert torch.equal(two_loop(gradient, [still, real, still]), two_loop(gradient, [real]))


def naive_run(hessians, start, training, steps):
    """SLIM-QN on `sum_l w_l' A_l w_l / 2`, in float64, with lists of everything and whole matrices."""
    history, interval, beta = training.qn_history, training.qn_interval, training.qn_beta
    weights = [values.copy() for values in start]
    velocity = [np.zeros_like(values) for values in start]
    seen, turns = [([], []) for _ in start], [[] for _ in start]
    for step in range(1, steps + 1):
        for layer, hessian in enumerate(hessians):
            gradient = hessian @ weights[layer]
            for list_, value in zip(seen[layer], (weights[layer].copy(), gradient), strict=True):
                list_.append(value)
            if step % interval == 0:
                shares = beta ** np.arange(step - 1, -1, -1)
                turns[layer].append([np.average(list_, axis=0, weights=shares) for list_ in seen[layer]])
            differences = [
                (after[0] - before[0], after[1] - before[1])
                for before, after in zip(turns[layer], turns[layer][1:], strict=False)
            ]
            pairs = [
                (s, damped(*map(torch.from_numpy, (s, y)), training.qn_damping).numpy())
                for s, y in differences
            ][-history:]
            direction = dense_inverse(pairs, len(gradient)) @ gradient if pairs else gradient
            velocity[layer] = training.momentum * velocity[layer] + direction
            weights[layer] -= training.learning_rate * velocity[layer]
    return weights


QUADRATICS = {
    "plain": LocalTraining(optimizer="slim-qn", learning_rate=0.3, qn_interval=3, qn_beta=0.5),
    "momentum": LocalTraining(
        optimizer="slim-qn", learning_rate=0.1, momentum=0.5, qn_interval=2, qn_beta=0.9
    ),
    "no average, short history": LocalTraining(
        optimizer="slim-qn", learning_rate=0.3, qn_interval=1, qn_beta=0.0, qn_history=2
    ),
    "steep, damped": LocalTraining(
        optimizer="slim-qn", learning_rate=0.05, qn_interval=2, qn_beta=0.5, qn_damping=0.3
    ),
}


def quadratic(seed, steep):
    """Hessians of two layers, of 6 and 4 weights, and where to start."""
    rng = np.random.default_rng(seed)
    hessians = []
    for size in (6, 4):
        basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
        hessians.append(basis @ np.diag(np.linspace(0.005, 5.0 if steep else 1.2, size)) @ basis.T)
    return hessians, [rng.standard_normal(6), rng.standard_normal(4)]


def run(hessians, start, training, steps, moments=None):
    """The same by the optimiser; layer a has two parameters, 2 x 2 and 2, layer b one of 4."""
    keys = ("a.weight", "a.bias", "b.weight")
    weights = [torch.from_numpy(start[0][:4].reshape(2, 2).copy()), torch.from_numpy(start[0][4:].copy())]
    weights.append(torch.from_numpy(start[1].copy()))
    optimiser = Optimiser(training, keys, weights)
    optimiser.resume(moments or Moments())
    for _ in range(steps):
        flat = torch.cat([weights[0].reshape(-1), weights[1]])
        first = torch.from_numpy(hessians[0]) @ flat
        second = torch.from_numpy(hessians[1]) @ weights[2]
        optimiser.step(weights, [first[:4].view(2, 2), first[4:], second])
    end = [torch.cat([weights[0].reshape(-1), weights[1]]).numpy(), weights[2].numpy()]
    return end, optimiser.gathered(steps)


@pytest.mark.parametrize("training", QUADRATICS.values(), ids=QUADRATICS)
def test_runs_on_a_quadratic_are_those_of_whole_matrices(training):
    hessians, start = quadratic(3, training is QUADRATICS["steep, damped"])
    for steps in (1, 2, 5, 6, 24):
        found, _ = run(hessians, start, training, steps)
        for layer, values in enumerate(naive_run(hessians, start, training, steps)):
            np.testing.assert_allclose(found[layer], values, rtol=1e-6, atol=1e-9)


def test_it_is_sgd_until_the_first_pair_and_much_faster_after():
    hessians, start = quadratic(1, steep=False)
    training = LocalTraining(optimizer="slim-qn", learning_rate=0.3, qn_interval=3, qn_beta=0.5)
    sgd = LocalTraining(learning_rate=0.3)
    for steps, same in ((5, True), (6, False)):
        pairs = [run(hessians, start, one, steps)[0] for one in (training, sgd)]
        assert np.allclose(pairs[0][0], pairs[1][0], atol=1e-12) == same
    lengths = [np.linalg.norm(np.concatenate(run(hessians, start, one, 60)[0])) for one in (training, sgd)]
    assert lengths[0] < 0.05 * lengths[1]


def test_layers_do_not_see_each_other():
    hessians, start = quadratic(1, steep=False)
    training = QUADRATICS["plain"]
    both, _ = run(hessians, start, training, 12)
    alone, _ = run([hessians[0], 3 * hessians[1]], start, training, 12)
    assert np.array_equal(both[0], alone[0])
    assert not np.allclose(both[1], alone[1])


@pytest.mark.parametrize("training", QUADRATICS.values(), ids=QUADRATICS)
@pytest.mark.parametrize("cut", [0, 1, 4, 7, 23])
def test_a_run_that_goes_on_from_its_moments_is_the_whole_run(training, cut):
    hessians, start = quadratic(2, steep=False)
    whole, gathered = run(hessians, start, training, 24)
    before, moments = run(hessians, start, training, cut)
    found, after = run(hessians, before, training, 24 - cut, moments)
    assert all(np.array_equal(*pair) for pair in zip(found, whole, strict=True))
    assert after.steps == gathered.steps == 24
    assert (
        len(after.arrays)
        == len(gathered.arrays)
        == 5 + 2 * min(training.qn_history, 24 // training.qn_interval - 1)
    )
    for own, other in zip(after.arrays, gathered.arrays, strict=True):
        assert own.keys() == other.keys() == {"a.weight", "a.bias", "b.weight"}
        assert own["a.weight"].shape == (2, 2)
        assert all(np.array_equal(values, other[key]) for key, values in own.items())


def test_a_shorter_history_takes_the_latest_of_what_was_kept():
    hessians, start = quadratic(2, steep=False)
    long = QUADRATICS["plain"]
    short = LocalTraining(optimizer="slim-qn", learning_rate=0.3, qn_interval=3, qn_beta=0.5, qn_history=2)
    before, moments = run(hessians, start, long, 24)
    _, kept = run(hessians, before, short, 0, moments)
    assert len(kept.arrays) == 9
    assert np.array_equal(kept.arrays[-1]["b.weight"], moments.arrays[-1]["b.weight"])


@pytest.mark.parametrize("name", ["mlp", "cnn", "gru"])
def test_two_rounds_with_moments_are_one_of_twice_the_steps(name, make_model, make_samples, arrays_of):
    class InOrder:
        def permutation(self, count):
            return np.arange(count)

    model, samples = make_model(name), make_samples(name, 12)
    rule = {"optimizer": "slim-qn", "learning_rate": 0.02, "momentum": 0.5, "qn_interval": 2, "qn_beta": 0.9}
    one, two = (LocalTraining(epochs=epochs, batch_size=4, **rule) for epochs in (2, 4))
    first = train_loop(model, arrays_of(model), samples, one, InOrder(), Moments())
    twice = train_loop(model, first.arrays, samples, one, InOrder(), first.moments)
    once = train_loop(model, arrays_of(make_model(name)), samples, two, InOrder(), Moments())
    assert twice.moments.steps == once.moments.steps == 12
    assert len(once.moments.arrays) == 5 + 2 * 5
    for own, other in zip(
        (twice.arrays, *twice.moments.arrays), (once.arrays, *once.moments.arrays), strict=True
    ):
        assert all(np.array_equal(values, other[key]) for key, values in own.items())


def test_pairs_of_zero_steps_do_no_harm():
    """A layer that stands still beside one that moves."""
    curvature = LayerCurvature(
        ("a.weight", "b.weight"),
        [torch.zeros(3), torch.zeros(2)],
        history=3,
        interval=1,
        beta=0.0,
        damping=0.01,
    )
    weights = [torch.ones(3), torch.ones(2)]
    for step in range(1, 6):
        found = curvature.directions(weights, [torch.zeros(3), weights[1]], step)
        assert torch.equal(found[0], torch.zeros(3))
        assert torch.isfinite(found[1]).all()
        weights[1] = weights[1] - 0.1 * found[1]


def test_slim_qn_goes_by_the_loop(make_model):
    assert "slim-qn" in obstacle_to_vectorising(make_model("mlp"), LocalTraining(optimizer="slim-qn"))
