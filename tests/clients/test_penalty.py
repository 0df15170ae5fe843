"""Terms of the loss that depend on the weights alone."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_loop
from fedeff.clients.training import batches
from fedeff.core.errors import ConfigError

TRAININGS = {
    "sgd": LocalTraining(epochs=2, learning_rate=0.1),
    "momentum, decay": LocalTraining(
        optimizer="momentum", momentum=0.9, learning_rate=0.02, weight_decay=0.1
    ),
    "adam, fedprox": LocalTraining(optimizer="adam", learning_rate=0.002, prox_mu=0.3),
}


@dataclass(frozen=True)
class Ridge:
    """`strength / 2` times the squared weights, as anyone could check with weight decay."""

    strength: float

    def add_to(self, weights, gradients):
        for key, gradient in gradients.items():
            gradient.add_(weights[key], alpha=self.strength)

    def after_step(self, weights):
        pass


@dataclass(frozen=True)
class Cut:
    """Nothing in the loss; what is small after a step is zero, biases excepted."""

    threshold: float

    def add_to(self, weights, gradients):
        pass

    def after_step(self, weights):
        for key, weight in weights.items():
            if key.endswith("weight"):
                weight.mul_(weight.abs() >= self.threshold)


def trained(model, samples, training, arrays):
    return train_loop(model, arrays, samples, training, np.random.default_rng(3)).arrays


class Sum(nn.Module):
    """Two weights that are added before they are used: autograd has one gradient for both."""

    def __init__(self):
        super().__init__()
        values = torch.randn(2, 10, 36, generator=torch.Generator().manual_seed(0))
        self.first, self.second = nn.Parameter(values[0]), nn.Parameter(values[1])

    def forward(self, x):
        return F.linear(x.flatten(1), self.first + self.second)


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("name", ["mlp", "lstm", "sum"])
def test_a_ridge_as_a_penalty_is_weight_decay(name, training, make_model, make_samples, arrays_of):
    model = Sum() if name == "sum" else make_model(name)
    samples, start = make_samples("lstm" if name == "lstm" else "mlp", 23), arrays_of(model)
    decayed = trained(model, samples, replace(training, weight_decay=training.weight_decay + 0.2), start)
    penalised = trained(model, samples, replace(training, penalty=Ridge(0.2)), start)
    without = trained(model, samples, training, start)
    for key, values in decayed.items():
        np.testing.assert_allclose(penalised[key], values, rtol=0, atol=1e-6, err_msg=key)
    assert any(np.abs(values - penalised[key]).max() > 1e-5 for key, values in without.items())


def test_weights_are_cut_after_every_step(make_model, make_samples, arrays_of):
    model, samples = make_model("mlp"), make_samples("mlp", 23)
    training, start = LocalTraining(learning_rate=0.1), arrays_of(model)
    found = trained(model, samples, replace(training, penalty=Cut(0.05)), start)
    own = {key: torch.from_numpy(values.copy()).requires_grad_() for key, values in start.items()}
    for rows in batches(len(samples), training, np.random.default_rng(3)):
        logits = torch.func.functional_call(model, own, (samples.x[rows],))
        gradients = torch.autograd.grad(F.cross_entropy(logits, samples.y[rows]), list(own.values()))
        with torch.no_grad():
            for (key, weight), gradient in zip(own.items(), gradients, strict=True):
                weight -= 0.1 * gradient
                if key.endswith("weight"):
                    weight[weight.abs() < 0.05] = 0
    for key, weight in own.items():
        np.testing.assert_allclose(found[key], weight.detach().numpy(), rtol=0, atol=1e-6, err_msg=key)
    share = np.mean(found["fc1.weight"] == 0)
    assert 0.1 < share < 0.9


def test_frozen_parameters_and_buffers_are_not_shown(make_samples, arrays_of):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
    model[1].weight.requires_grad_(False)
    seen = set()

    @dataclass(frozen=True)
    class Watch:
        def add_to(self, weights, gradients):
            assert not torch.is_grad_enabled()
            assert weights.keys() == gradients.keys()
            seen.update(weights)

        def after_step(self, weights):
            assert not torch.is_grad_enabled()
            seen.update(weights)

    trained(model, make_samples("mlp", 20), LocalTraining(penalty=Watch()), arrays_of(model))
    assert seen == {"1.bias", "2.weight", "2.bias", "3.weight", "3.bias"}


def test_a_training_with_a_penalty_is_a_value_that_goes_by_the_loop(make_model):
    training = LocalTraining(penalty=Ridge(0.1))
    assert pickle.loads(pickle.dumps(training)) == training
    assert len({training, LocalTraining(penalty=Ridge(0.1)), LocalTraining()}) == 2
    assert training.overridden({"learning-rate": 0.5}).penalty == Ridge(0.1)
    assert "penalty" in obstacle_to_vectorising(make_model("mlp"), training)


def test_what_is_no_penalty_is_refused():
    with pytest.raises(ConfigError, match=r"penalty is 0\.1"):
        LocalTraining(penalty=0.1)
