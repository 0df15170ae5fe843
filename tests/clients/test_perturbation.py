"""SmoothOut and AdaSmoothOut against the rule written weight by weight."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_loop
from fedeff.clients.accumulate import mean_gradient
from fedeff.clients.perturbation import Noise, measure_statistics, scaled
from fedeff.clients.training import batches

TRAININGS = {
    "smooth-out": LocalTraining(epochs=2, learning_rate=0.1, perturbation="smooth-out"),
    "smooth-out, momentum, decay": LocalTraining(
        epochs=2,
        optimizer="momentum",
        momentum=0.9,
        learning_rate=0.02,
        weight_decay=0.1,
        perturbation="smooth-out",
        perturbation_radius=0.2,
    ),
    "ada-smooth-out": LocalTraining(epochs=2, learning_rate=0.1, perturbation="ada-smooth-out"),
    "ada-smooth-out, wide": LocalTraining(
        epochs=2, learning_rate=0.1, perturbation="ada-smooth-out", perturbation_radius=0.7
    ),
}


def naive_noise(weights, kind, radius, generator):
    """Noise of one parameter, weight by weight; of "ada-smooth-out" group by group."""
    noise = torch.empty(weights.shape).uniform_(-radius, radius, generator=generator)
    if kind == "smooth-out":
        return noise
    found = torch.empty_like(noise)
    groups = [...] if weights.dim() == 1 else range(len(weights))
    for group in groups:
        length = sum(value**2 for value in noise[group].flatten().tolist()) ** 0.5
        size = sum(value**2 for value in weights[group].flatten().tolist()) ** 0.5
        found[group] = radius * size / length * noise[group]
    return found


def naive(model, start, samples, training, rng):
    """SGD with momentum and decay, its gradients taken at weights with noise: algorithm 2 of the source."""
    own = {key: torch.from_numpy(values.copy()) for key, values in start.items()}
    velocity = {key: torch.zeros_like(value) for key, value in own.items()}
    radius = training.noise_radius
    generator = torch.Generator().manual_seed(int(np.random.default_rng(5).spawn(1)[0].integers(2**63)))
    for rows in batches(len(samples), training, rng):
        noisy = {
            key: (value + naive_noise(value, training.perturbation, radius, generator)).requires_grad_()
            for key, value in own.items()
        }
        logits = torch.func.functional_call(model, noisy, (samples.x[rows],))
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), samples.y[rows].reshape(-1))
        gradients = torch.autograd.grad(loss, list(noisy.values()))
        for (key, value), gradient in zip(own.items(), gradients, strict=True):
            velocity[key] = training.momentum * velocity[key] + gradient + training.weight_decay * value
            own[key] = value - training.learning_rate * velocity[key]
    return own


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "gru"])
def test_training_equals_the_rule_written_weight_by_weight(
    name, training, make_model, make_samples, arrays_of
):
    model, samples = make_model(name), make_samples(name, 23)
    start = arrays_of(model)
    expected = naive(model, start, samples, training, np.random.default_rng(5))
    trained = train_loop(make_model(name, 1), start, samples, training, np.random.default_rng(5))
    for key, value in expected.items():
        np.testing.assert_allclose(trained.arrays[key], value.numpy(), rtol=0, atol=2e-6, err_msg=key)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.sampled_from([1e-6, 0.0375, 3.0, 1e6]),
    kind=st.sampled_from(["smooth-out", "ada-smooth-out"]),
    sizes=st.lists(st.integers(1, 5), min_size=0, max_size=4),
)
def test_weights_after_a_gradient_are_those_before_it_bit_for_bit(seed, radius, kind, sizes):
    weights = [torch.randn(sizes, generator=torch.Generator().manual_seed(seed))]
    before = weights[0].clone()
    training = LocalTraining(perturbation=kind, perturbation_radius=radius)
    noise = Noise(training, np.random.default_rng(seed))
    with noise.on(weights):
        assert not torch.equal(weights[0], before) or radius < 1e-5
    assert torch.equal(weights[0], before)
    with pytest.raises(ZeroDivisionError), noise.on(weights):
        raise ZeroDivisionError
    assert torch.equal(weights[0], before)


def test_subtracting_the_noise_would_not_give_the_weights_back():
    """Why they are kept."""
    weights, noise = torch.full((1000,), 1e-4), torch.empty(1000).uniform_(-1, 1)
    assert not torch.equal(weights + noise - noise, weights)


@given(
    seed=st.integers(0, 2**32 - 1), radius=st.floats(0.01, 2), sizes=st.lists(st.integers(1, 5), min_size=2)
)
def test_every_groups_noise_has_the_radius_times_the_groups_norm(seed, radius, sizes):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(sizes[:4], generator=generator)
    noise = torch.empty(sizes[:4]).uniform_(-radius, radius, generator=generator)
    lengths = scaled(noise, weights, radius).flatten(1).norm(dim=1)
    np.testing.assert_allclose(lengths, radius * weights.flatten(1).norm(dim=1), rtol=1e-4)


def test_a_noise_of_zeros_and_a_group_of_zeros_stay_zero():
    noise, weights = torch.tensor([[0.0, 0.0], [0.1, 0.2]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.equal(scaled(noise, weights, 0.5), torch.zeros(2, 2))
    # by hand: |w| = 5, |theta| = 0.25, so theta is scaled by 0.5 * 5 / 0.25 = 10
    ten = scaled(torch.tensor([[0.15, -0.2]]), torch.tensor([[3.0, 4.0]]), 0.5)
    np.testing.assert_allclose(ten, [[1.5, -2.0]], rtol=1e-6)


def test_noise_is_uniform_and_new_at_each_step():
    weights = [torch.zeros(20_000)]
    noise = Noise(LocalTraining(perturbation="smooth-out", perturbation_radius=0.5), np.random.default_rng(1))
    drawn = []
    for _ in range(2):
        with noise.on(weights):
            drawn.append(weights[0].clone())
    assert not torch.equal(*drawn)
    for values in drawn:
        assert 0.499 < values.abs().max() <= 0.5
        assert abs(values.mean()) < 0.01
        assert values.var() == pytest.approx(0.5**2 / 3, rel=0.03)


def test_batches_are_those_of_the_training_without_noise(make_model, make_samples, arrays_of):
    """Noise too small to count leaves the same result: nothing else is drawn differently."""
    model, samples = make_model("mlp"), make_samples("mlp", 23)
    start = arrays_of(model)
    plain, noisy = (
        train_loop(model, start, samples, training, np.random.default_rng(2)).arrays
        for training in (
            LocalTraining(epochs=2),
            LocalTraining(epochs=2, perturbation="smooth-out", perturbation_radius=1e-12),
        )
    )
    for key, values in plain.items():
        np.testing.assert_allclose(noisy[key], values, rtol=0, atol=1e-7)


def test_the_generator_decides_the_noise(make_model, make_samples, arrays_of):
    model, samples = make_model("mlp"), make_samples("mlp", 9)
    training = LocalTraining(batch_size=9, perturbation="smooth-out")  # one batch: the order says nothing
    start = arrays_of(model)
    first, again, other = (
        train_loop(model, start, samples, training, np.random.default_rng(seed)).arrays for seed in (0, 0, 1)
    )
    assert all(np.array_equal(values, again[key]) for key, values in first.items())
    assert not np.allclose(first["fc1.weight"], other["fc1.weight"], rtol=0, atol=1e-5)


def test_gathered_gradients_are_taken_at_weights_with_noise_too(make_model, make_samples, arrays_of):
    model, samples = make_model("mlp"), make_samples("mlp", 9)
    start = arrays_of(model)
    plain, noisy = (
        mean_gradient(model, start, samples, training, np.random.default_rng(0))
        for training in (LocalTraining(), LocalTraining(perturbation="smooth-out"))
    )
    assert not np.allclose(plain.arrays["fc1.weight"], noisy.arrays["fc1.weight"], rtol=0, atol=1e-5)


def with_batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))


def test_running_statistics_are_those_of_the_weights_without_noise(make_samples, arrays_of):
    model, samples = with_batch_norm(), make_samples("mlp", 40)
    training = LocalTraining(perturbation="smooth-out", perturbation_radius=2.0)
    trained = train_loop(model, arrays_of(model), samples, training, np.random.default_rng(0)).arrays
    with torch.no_grad():
        inside = model[1](samples.x.flatten(1))  # the model holds the trained weights
    np.testing.assert_allclose(trained["2.running_mean"], inside.mean(0), atol=1e-5)
    np.testing.assert_allclose(trained["2.running_var"], inside.var(0), rtol=1e-4)
    assert model[2].momentum == 0.1


def test_statistics_of_several_batches_are_their_mean(make_samples, monkeypatch):
    monkeypatch.setattr("fedeff.clients.perturbation._BATCH", 10)
    model, samples = with_batch_norm(), make_samples("mlp", 31)  # batches of 8, 8, 8 and 7
    measure_statistics(model, samples)
    assert model[2].num_batches_tracked == 4
    with torch.no_grad():
        inside = model[1](samples.x.flatten(1))
    expected = torch.stack([part.mean(0) for part in inside.tensor_split(4)]).mean(0)
    np.testing.assert_allclose(model[2].running_mean, expected, atol=1e-5)


def test_perturbed_training_goes_by_the_loop(make_model):
    training = LocalTraining(perturbation="smooth-out")
    assert "perturbation smooth-out" in obstacle_to_vectorising(make_model("mlp"), training)
