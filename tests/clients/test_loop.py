import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients import LocalTraining, evaluate, train_loop
from fedeff.clients.data import prepared
from fedeff.clients.training import batches
from fedeff.core.errors import ConfigError

TRAININGS = {
    "sgd": LocalTraining(learning_rate=0.1),
    "weight decay": LocalTraining(learning_rate=0.1, weight_decay=0.05),
    "fedprox": LocalTraining(epochs=2, learning_rate=0.1, prox_mu=0.5),
    "momentum": LocalTraining(epochs=2, optimizer="momentum", momentum=0.9, learning_rate=0.02),
    "momentum, decay, fedprox": LocalTraining(
        epochs=2, optimizer="momentum", momentum=0.9, learning_rate=0.02, weight_decay=0.1, prox_mu=0.2
    ),
    "adam": LocalTraining(epochs=2, optimizer="adam", learning_rate=0.003),
    "adam, decay, fedprox": LocalTraining(
        epochs=2, optimizer="adam", learning_rate=0.003, weight_decay=0.1, prox_mu=0.2
    ),
    "adamw, decay, fedprox": LocalTraining(
        epochs=2, optimizer="adamw", learning_rate=0.003, weight_decay=0.5, prox_mu=0.2
    ),
    "steps": LocalTraining(steps=4, batch_size=7, learning_rate=0.1),
}


def naive(model, samples, training, rng):
    """Local training as anyone would write it with `torch.optim`; the trained state and the mean loss."""
    received = [p.detach().clone() for p in model.parameters()]
    decay, rate = training.weight_decay, training.learning_rate
    if training.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(model.parameters(), lr=rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=training.momentum, weight_decay=decay
        )
    losses = []
    for rows in batches(len(samples), training, rng):
        optimizer.zero_grad()
        logits = model(samples.x[rows])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), samples.y[rows].reshape(-1))
        losses += [loss.item()] * len(rows)
        for p, start in zip(model.parameters(), received, strict=True):
            loss = loss + training.prox_mu / 2 * (p - start).square().sum()
        loss.backward()
        optimizer.step()
    return {key: value.numpy() for key, value in model.state_dict().items()}, np.mean(losses)


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_the_loop_equals_torch_optim(name, training, make_model, make_samples, arrays_of):
    samples, model = make_samples(name, 23), make_model(name)
    expected, loss = naive(copy.deepcopy(model), samples, training, np.random.default_rng(5))
    trained = train_loop(make_model(name, 1), arrays_of(model), samples, training, np.random.default_rng(5))
    assert trained.arrays.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(trained.arrays[key], values, rtol=0, atol=1e-6, err_msg=key)
    assert trained.loss == pytest.approx(loss, abs=1e-5)
    assert (trained.steps, trained.examples) == (training.step_count(23), 23)


def test_a_channels_last_model_trains_alike_and_gives_c_order(make_model, make_samples, arrays_of):
    samples, start = make_samples("cnn", 12), arrays_of(make_model("cnn"))
    plain, last = (
        train_loop(m, start, samples, LocalTraining(), np.random.default_rng(0)).arrays
        for m in (make_model("cnn"), make_model("cnn").to(memory_format=torch.channels_last))
    )
    for key in plain:
        np.testing.assert_allclose(plain[key], last[key], atol=1e-6)
        assert last[key].flags.c_contiguous


def test_a_result_does_not_change_when_the_model_is_used_again(make_model, make_samples, arrays_of):
    model, start = make_model("mlp"), arrays_of(make_model("mlp"))
    first = train_loop(model, start, make_samples("mlp", 9), LocalTraining(), np.random.default_rng(0))
    kept = {key: values.copy() for key, values in first.arrays.items()}
    again = train_loop(model, start, make_samples("mlp", 9), LocalTraining(), np.random.default_rng(0))
    train_loop(model, start, make_samples("mlp", 8), LocalTraining(), np.random.default_rng(0))
    for key, values in kept.items():
        assert np.array_equal(first.arrays[key], values)
        assert np.array_equal(again.arrays[key], values)


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 50), nn.Dropout(0.5), nn.Linear(50, 10))


def test_dropout_is_seeded_and_leaves_the_global_generator_alone(make_samples, arrays_of):
    model, before = with_dropout(), torch.random.get_rng_state()
    start, results = arrays_of(model), []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        state = torch.random.get_rng_state()
        trained = train_loop(
            model, start, make_samples("mlp", 9), LocalTraining(), np.random.default_rng(seed)
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append(trained.arrays)
    torch.random.set_rng_state(before)
    assert all(np.array_equal(results[0][key], results[1][key]) for key in start)
    assert not all(np.array_equal(results[0][key], results[2][key]) for key in start)


def test_dropout_is_on_in_training_and_off_in_evaluation(make_samples, arrays_of):
    model, samples = with_dropout(), make_samples("mlp", 30)
    start = arrays_of(model)
    scores = [evaluate(model, start, samples) for _ in range(2)]
    assert scores[0] == scores[1]
    used, fresh = (  # the used model comes from an evaluation
        train_loop(m, start, samples, LocalTraining(), np.random.default_rng(0))
        for m in (model, with_dropout())
    )
    assert used.loss == fresh.loss
    assert all(np.array_equal(used.arrays[key], fresh.arrays[key]) for key in start)


def test_frozen_parameters_and_buffers_travel_along(make_samples, arrays_of):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
    model[1].weight.requires_grad_(False)
    start = arrays_of(model)
    trained = train_loop(
        model, start, make_samples("mlp", 20), LocalTraining(), np.random.default_rng(0)
    ).arrays
    assert np.array_equal(trained["1.weight"], start["1.weight"])
    assert trained["2.num_batches_tracked"] == 2
    assert not np.array_equal(trained["2.running_mean"], start["2.running_mean"])


def test_autocast_computes_in_bfloat16(make_model, make_samples, arrays_of):
    start, samples = arrays_of(make_model("mlp")), make_samples("mlp", 20)
    full, half = (
        train_loop(
            make_model("mlp"), start, samples, LocalTraining(autocast=on), np.random.default_rng(0)
        ).arrays["fc1.weight"]
        for on in (False, True)
    )
    assert half.dtype == np.float32
    assert 1e-7 < np.abs(full - half).max() < 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("fc2.bias"), r"missing \['fc2.bias'\]"),
        (lambda a: a.update(extra=np.zeros(1)), r"unknown \['extra'\]"),
        (lambda a: a.update({"fc2.bias": np.zeros(1, np.float32)}), r"'fc2.bias' is float32\[1\]"),
        (lambda a: a.update({"fc2.bias": np.array(["a"] * 10)}), "10] numbers there"),
    ],
)
def test_arrays_of_another_model_are_refused(change, message, make_model, make_samples, arrays_of):
    arrays = arrays_of(make_model("mlp"))
    change(arrays)
    with pytest.raises(ConfigError, match=message):
        train_loop(
            make_model("mlp"), arrays, make_samples("mlp", 5), LocalTraining(), np.random.default_rng(0)
        )


def test_training_learns_and_evaluation_sees_it(make_model, make_samples, arrays_of):
    samples, model = make_samples("mlp", 40), make_model("mlp")
    before = evaluate(model, arrays_of(model), samples)
    training = LocalTraining(epochs=60, optimizer="adam", learning_rate=0.01)
    trained = train_loop(model, arrays_of(model), samples, training, np.random.default_rng(0))
    after = evaluate(model, trained.arrays, samples)
    assert after.loss < before.loss
    assert after.accuracy == 1.0
    assert after.examples == 40


def test_a_score_is_the_mean_over_all_predictions(make_model, make_samples, arrays_of):
    model = make_model("gru")
    samples = make_samples("gru", 300)  # more than one batch
    logits = model(samples.x)
    score = evaluate(model, arrays_of(model), samples)
    assert score.loss == pytest.approx(
        F.cross_entropy(logits.reshape(-1, 10), samples.y.reshape(-1)).item(), rel=1e-5
    )
    assert score.accuracy == pytest.approx((logits.argmax(-1) == samples.y).float().mean().item())


@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_a_score_without_samples_is_one_of_no_weight(make_model, make_samples, arrays_of, name):
    score = evaluate(make_model(name), arrays_of(make_model(name)), make_samples(name, 0))
    assert (score.loss, score.accuracy, score.examples) == (0.0, 0.0, 0)


def test_images_of_bytes_are_scaled_once():
    samples = prepared(np.array([[0, 51, 255]], np.uint8), np.array([3], np.uint8), "cpu")
    assert samples.x.tolist() == [[0.0, pytest.approx(0.2), 1.0]]
    assert samples.y.dtype == torch.int64
