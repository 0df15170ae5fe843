from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fedeff.clients.block as block_module
from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_block, train_loop
from fedeff.clients.block import vectorising_pays
from fedeff.core.errors import ConfigError

TRAININGS = {
    "sgd": LocalTraining(learning_rate=0.1),
    "two epochs, decay, fedprox": LocalTraining(epochs=2, learning_rate=0.1, weight_decay=0.05, prox_mu=0.5),
    "momentum": LocalTraining(
        epochs=2, batch_size=4, optimizer="momentum", momentum=0.9, learning_rate=0.02, prox_mu=0.1
    ),
    "adam": LocalTraining(epochs=2, optimizer="adam", learning_rate=0.0005, weight_decay=0.01),
    "adamw": LocalTraining(epochs=2, optimizer="adamw", learning_rate=0.0005, weight_decay=0.1),
    "steps": LocalTraining(steps=5, batch_size=7, learning_rate=0.1),
}


def generators(count):
    return [np.random.default_rng((9, client)) for client in range(count)]


def in_dtype(samples, dtype):
    return replace(samples, x=samples.x.to(dtype)) if samples.x.is_floating_point() else samples


def assert_block_equals_loop(name, sizes, training, make_model, make_samples, arrays_of):
    # Adam divides by the gradient's own size, where a gradient of rounding errors would count in full: in
    # float64 these are small enough to hold the two to less. A block's weights of rows are float32 (6e-8).
    adaptive = training.optimizer.startswith("adam")
    dtype, atol = (torch.float64, 1e-6) if adaptive else (torch.float32, 1e-5)
    model = make_model(name).to(dtype)
    arrays = [arrays_of(make_model(name, seed).to(dtype)) for seed in range(len(sizes))]  # each its own
    samples = [in_dtype(make_samples(name, size, seed), dtype) for seed, size in enumerate(sizes)]
    before = arrays_of(model)
    block = train_block(model, arrays, samples, training, generators(len(sizes)))
    assert all(np.array_equal(values, before[key]) for key, values in arrays_of(model).items())
    loop = [
        train_loop(model, *one, training, rng)
        for *one, rng in zip(arrays, samples, generators(len(sizes)), strict=True)
    ]
    for client, (own, reference) in enumerate(zip(block, loop, strict=True)):
        assert (own.steps, own.examples) == (reference.steps, reference.examples)
        assert own.loss == pytest.approx(reference.loss, abs=1e-5)
        assert own.arrays.keys() == reference.arrays.keys()
        for key, values in reference.arrays.items():
            np.testing.assert_allclose(
                own.arrays[key], values, rtol=0, atol=atol, err_msg=f"client {client} {key}"
            )


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "logistic", "gru", "lstm", "transformer"])
def test_a_block_equals_the_loop(name, training, make_model, make_samples, arrays_of):
    assert_block_equals_loop(name, [12, 3, 20, 1, 10], training, make_model, make_samples, arrays_of)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), batch=st.integers(1, 12))
def test_a_block_equals_the_loop_whatever_its_clients_hold(sizes, batch, make_model, make_samples, arrays_of):
    training = LocalTraining(batch_size=batch, learning_rate=0.05)
    assert_block_equals_loop("mlp", sizes, training, make_model, make_samples, arrays_of)


def test_a_block_equals_the_loop_for_group_norm(make_model, make_samples, arrays_of):
    training = LocalTraining(learning_rate=0.01)
    assert_block_equals_loop("resnet20", [12, 3], training, make_model, make_samples, arrays_of)


@pytest.mark.parametrize("bound", ["_STACK_BYTES", "_WINDOW_BYTES"])
def test_pieces_of_any_size_add_up(bound, make_model, make_samples, arrays_of, monkeypatch):
    """However little of the block or of its samples is held at a time, the results are the same."""
    for size in (1, 20_000, 60_000):
        monkeypatch.setattr(block_module, bound, size)
        sizes, training = [12, 30, 3, 3, 30, 1], LocalTraining(epochs=2, batch_size=4, learning_rate=0.05)
        assert_block_equals_loop("mlp", sizes, training, make_model, make_samples, arrays_of)


def test_frozen_parameters_stay(make_samples, arrays_of):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 10))
    model[1].weight.requires_grad_(False)
    start = arrays_of(model)
    for trained in train_block(
        model, [start] * 2, [make_samples("mlp", 9)] * 2, LocalTraining(), generators(2)
    ):
        assert np.array_equal(trained.arrays["1.weight"], start["1.weight"])
        assert not np.array_equal(trained.arrays["1.bias"], start["1.bias"])


@pytest.mark.parametrize(
    ("layer", "training", "reason"),
    [
        (nn.BatchNorm1d(10), LocalTraining(), "buffers"),
        (nn.Dropout(0.1), LocalTraining(), "dropout"),
        (nn.ReLU(), LocalTraining(autocast=True), "autocast"),
    ],
)
def test_what_cannot_be_vectorised_is_refused_with_the_reason(
    layer, training, reason, make_samples, arrays_of
):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 10), layer)
    assert reason in obstacle_to_vectorising(model, training)
    with pytest.raises(ConfigError, match=reason):
        train_block(model, [arrays_of(model)], [make_samples("mlp", 5)], training, generators(1))
    assert obstacle_to_vectorising(model[:2], LocalTraining()) is None


def test_arrays_of_another_model_are_refused(make_model, make_samples, arrays_of):
    arrays = arrays_of(make_model("mlp"))
    wrong = {**arrays, "fc2.bias": arrays["fc2.bias"][:1]}  # would broadcast
    with pytest.raises(ConfigError, match=r"'fc2.bias' is float32\[1\]"):
        train_block(
            make_model("mlp"), [arrays, wrong], [make_samples("mlp", 5)] * 2, LocalTraining(), generators(2)
        )


def test_the_kind_of_layers_alone_says_whether_vectorising_pays(make_model):
    assert vectorising_pays(make_model("mlp"), "cpu")
    assert vectorising_pays(make_model("gru"), "cpu")
    assert not vectorising_pays(make_model("cnn"), "cpu")
    assert not vectorising_pays(make_model("lstm"), "cpu")
    assert vectorising_pays(make_model("cnn"), "cuda")
