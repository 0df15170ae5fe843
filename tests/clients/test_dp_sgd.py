"""DP-SGD: each row's gradient against a batch of that row alone, its clipping, its noise, its limits."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedeff.clients import dp_sgd as module
from fedeff.clients.block import obstacle_to_vectorising
from fedeff.clients.data import Samples
from fedeff.clients.dp_sgd import DpSgd, row_gradients
from fedeff.clients.loop import mean_loss, train_loop
from fedeff.clients.training import LocalTraining
from fedeff.core.errors import ConfigError
from fedeff.models import build


def naive(model: nn.Module, samples: Samples, clip: float) -> list[torch.Tensor]:
    """The sum of clipped gradients, one batch of one row after another."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    for row in range(len(samples)):
        loss = mean_loss(model(samples.x[row : row + 1]), samples.y[row : row + 1])
        gradients = torch.autograd.grad(loss, parameters)
        length = float(torch.cat([g.flatten() for g in gradients]).norm())
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient * min(1.0, clip / length)
    return sums


@pytest.mark.parametrize("name", ["mlp", "cnn", "logistic", "gru", "lstm", "transformer", "resnet20"])
@pytest.mark.parametrize("clip", [1e-2, 1e6])
def test_the_sum_is_that_of_one_clipped_gradient_a_row(make_model, make_samples, name, clip):
    model, samples = make_model(name).double().train(), make_samples(name, 5)
    if samples.x.is_floating_point():
        samples = Samples(samples.x.double(), samples.y)
    loss, sums = DpSgd(clip).clipped_sum(model, list(model.parameters()), samples.x, samples.y)
    assert float(loss) == pytest.approx(float(mean_loss(model(samples.x), samples.y).detach()), rel=1e-5)
    for found, wanted in zip(sums, naive(model, samples, clip), strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-7, atol=1e-9)
    if clip < 1:
        assert float(torch.cat([s.flatten() for s in sums]).norm()) <= 5 * clip * (1 + 1e-9)


def test_a_row_moves_the_sum_by_twice_the_norm_at_most(make_model, make_samples):
    model, samples = make_model("mlp"), make_samples("mlp", 4)
    parameters, step = list(model.parameters()), DpSgd(0.1)
    _, before = step.clipped_sum(model, parameters, samples.x, samples.y)
    x = samples.x.clone()
    x[2] = 1e4
    _, after = step.clipped_sum(model, parameters, x, samples.y)
    apart = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).norm()
    assert 0.01 < float(apart) <= 0.2 * (1 + 1e-5)


def test_a_long_batch_is_cut_and_gives_the_same(make_model, make_samples, monkeypatch):
    model, samples = make_model("mlp"), make_samples("mlp", 7)
    whole = DpSgd(0.1).clipped_sum(model, list(model.parameters()), samples.x, samples.y)
    monkeypatch.setattr(module, "_STACK_BYTES", 2 * sum(p.nbytes for p in model.parameters()))
    cut = DpSgd(0.1).clipped_sum(model, list(model.parameters()), samples.x, samples.y)
    torch.testing.assert_close(cut[0], whole[0])
    for found, wanted in zip(cut[1], whole[1], strict=True):
        torch.testing.assert_close(found, wanted)


def test_without_noise_and_clipping_of_nothing_it_is_plain_sgd(make_model, make_samples, arrays_of):
    model, samples = make_model("cnn"), make_samples("cnn", 10)
    plain = LocalTraining(batch_size=4, learning_rate=0.1, weight_decay=0.01)
    found = [
        train_loop(make_model("cnn"), arrays_of(model), samples, training, np.random.default_rng(0))
        for training in (plain, replace(plain, dp_sgd=DpSgd(1e6)))
    ]
    for key, values in found[0].arrays.items():
        np.testing.assert_allclose(found[1].arrays[key], values, atol=1e-6)
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-5)


def test_the_change_of_one_step_has_the_noise_that_is_stated(make_model, make_samples, arrays_of):
    """Learning rate times multiplier times norm over the batch's rows, on each value."""
    model, samples = make_model("mlp"), make_samples("mlp", 8)
    training = LocalTraining(steps=1, batch_size=8, learning_rate=0.5, dp_sgd=DpSgd(0.2, 0.0, seeded=True))

    def weights(multiplier: float, seed: int = 1) -> np.ndarray:
        private = replace(training, dp_sgd=DpSgd(0.2, multiplier, seeded=True))
        rng = np.random.default_rng(seed)
        trained = train_loop(make_model("mlp"), arrays_of(model), samples, private, rng)
        return np.concatenate([v.ravel() for v in trained.arrays.values()])

    noise = (weights(3.0) - weights(0.0)) / (0.5 * 3.0 * 0.2 / 8)
    assert stats.kstest(noise, "norm").pvalue > 0.01
    np.testing.assert_array_equal(weights(3.0), weights(3.0))
    assert abs(np.corrcoef(weights(3.0) - weights(0.0), weights(3.0, 2) - weights(0.0, 2))[0, 1]) < 0.1


def test_noise_is_secret_unless_it_is_seeded(make_model, make_samples, arrays_of):
    model, samples = make_model("mlp"), make_samples("mlp", 4)
    training = LocalTraining(steps=1, batch_size=4, dp_sgd=DpSgd(1.0, 1.0))
    one, other = (
        train_loop(make_model("mlp"), arrays_of(model), samples, training, np.random.default_rng(0)).arrays
        for _ in range(2)
    )
    assert all(not np.array_equal(one[key], other[key]) for key in one)


def test_a_model_that_mixes_rows_is_refused(make_samples):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4)).train()
    samples = make_samples("mlp", 4)
    with pytest.raises(ConfigError, match="BatchNorm"):
        row_gradients(model, list(model.parameters()), samples.x, samples.y % 4)


def test_dropout_draws_for_each_row(make_samples):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 10)).train()
    samples = make_samples("mlp", 2)
    x, y = samples.x[:1].repeat(6, 1, 1, 1), samples.y[:1].repeat(6)
    losses, _ = row_gradients(model, list(model.parameters()), x, y)
    assert len(set(losses.tolist())) > 1


def test_it_goes_by_the_loop_and_needs_the_loss_of_labels(make_model):
    training = LocalTraining(dp_sgd=DpSgd(1.0))
    assert obstacle_to_vectorising(make_model("mlp"), training) == "DP-SGD clips the gradient of each row"
    with pytest.raises(ConfigError, match="autocast"):
        replace(training, autocast=True)
    for given, said in (((0.0,), "dp-sgd-clipping-norm is 0.0"), ((1.0, -1.0), "dp-sgd-noise-multiplier")):
        with pytest.raises(ConfigError, match=said):
            DpSgd(*given)


def test_row_gradients_are_those_of_opacus(make_samples):
    """Opacus's hooks do not go with ReLU in place, so this is a network without."""
    pytest.importorskip("opacus")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule

        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10))
        samples = make_samples("mlp", 5)
        _, found = row_gradients(model, list(model.parameters()), samples.x, samples.y)
        wrapped = GradSampleModule(model, loss_reduction="sum")
        nn.functional.cross_entropy(wrapped(samples.x), samples.y, reduction="sum").backward()
    for parameter, gradients in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(gradients, parameter.grad_sample, rtol=1e-4, atol=1e-6)


def test_build_names_a_model_without_batch_norm():
    """The advice of the refusal above: resnet20 has GroupNorm."""
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in build("resnet20").modules())
