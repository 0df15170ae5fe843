"""SimSiam's loss, where its gradient goes, and its network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_loop
from fedeff.clients.self_supervision import (
    PersonalSimSiam,
    SimSiam,
    SimSiamNetwork,
    embedding_spread,
    encoder_of,
    simsiam_loss,
)
from fedeff.core.errors import ConfigError
from fedeff.models import build


def rows(*values):
    return torch.tensor(values, requires_grad=True)


def test_the_loss_by_hand():
    """Cosines 0.6 and 1 of the first pair, 0 and -1 of the second."""
    p1, z2 = rows([3.0, 4.0], [0.0, 2.0]), rows([5.0, 0.0], [0.0, 1.0])
    p2, z1 = rows([1.0, 0.0], [1.0, 1.0]), rows([0.0, 7.0], [-2.0, -2.0])
    loss = simsiam_loss(p1, p2, z1, z2)
    assert float(loss.detach()) == pytest.approx(-0.5 * (0.6 + 1) / 2 - 0.5 * (0 - 1) / 2)


def test_gradients_pass_through_predictions_alone():
    p1, p2, z1, z2 = (rows(*np.random.default_rng(i).random((3, 4)).tolist()) for i in range(4))
    simsiam_loss(p1, p2, z1, z2).backward()
    assert p1.grad is not None
    assert p2.grad is not None
    assert z1.grad is None
    assert z2.grad is None


def test_the_objective_of_a_network_is_the_loss_of_two_views(small_net, images):
    """Without a view's gradient through the embedding that is predicted; both views make one batch."""
    objective, draws = SimSiam(), 5
    given = objective(small_net, images, None, np.random.default_rng(draws))
    views = objective.views(images, np.random.default_rng(draws))
    z = small_net.projector(small_net.encoder(views))
    (z1, z2), (p1, p2) = z.split(6), small_net.predictor(z).split(6)
    cosine = nn.CosineSimilarity()
    expected = -(cosine(p1, z2.detach()) + cosine(p2, z1.detach())).mean() / 2
    torch.testing.assert_close(given.loss, expected)
    own = list(small_net.parameters())
    for seen, right in zip(
        torch.autograd.grad(given.loss, own), torch.autograd.grad(expected, own), strict=True
    ):
        torch.testing.assert_close(seen, right, rtol=1e-4, atol=1e-6)
    assert not torch.equal(*views.split(6))


def test_the_spread_is_zero_in_collapse_and_one_over_the_root_of_the_width_where_all_is_even():
    assert float(embedding_spread(torch.tensor([[1.0, 2.0]]).expand(9, 2) * 3)) == pytest.approx(0, abs=1e-7)
    even = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 64)))
    assert float(embedding_spread(even)) == pytest.approx(1 / math.sqrt(64), rel=0.01)


@pytest.mark.parametrize(
    ("name", "first_left_out", "features"),
    [("cnn", "fc1", 512), ("mlp", "fc2", 64), ("resnet20-small", "fc", 32)],
)
def test_an_encoder_is_a_model_without_the_dense_layers_at_its_end(name, first_left_out, features):
    """Its features are what the first of these read; of dense layers alone the last one goes."""
    whole, model = build(name), build(name)
    seen = []
    whole.get_submodule(first_left_out).register_forward_hook(lambda _, given, __: seen.append(given[0]))
    x = torch.rand(3, 1, 28, 28)
    whole(x)
    encoder, width = encoder_of(model)
    assert width == features
    assert torch.equal(encoder(x), seen[0])
    assert not any(key.startswith("fc2") for key in encoder.state_dict())


def test_a_model_without_anything_below_its_last_layer_is_refused():
    for model in (build("logistic"), nn.Linear(3, 2), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))):
        with pytest.raises(ConfigError, match="no features to learn"):
            encoder_of(model)


def test_the_head_is_drawn_from_the_seed_without_touching_others_draws(small_net):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    again = SimSiamNetwork(build("cnn", input_shape=(1, 8, 8)), 16, 0)
    other = SimSiamNetwork(build("cnn", input_shape=(1, 8, 8)), 16, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    key = "projector.0.weight"
    assert torch.equal(small_net.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(again.state_dict()[key], other.state_dict()[key])
    assert not list(again.buffers())


def test_training_lowers_the_loss_and_tells_the_spread(small_net, make_samples, arrays_of):
    training = LocalTraining(
        epochs=30, batch_size=16, optimizer="momentum", momentum=0.9, learning_rate=0.05, objective=SimSiam()
    )
    samples, start = make_samples("cnn", 64), arrays_of(small_net)
    first = train_loop(
        small_net,
        start,
        samples,
        LocalTraining(batch_size=16, learning_rate=1e-9, objective=SimSiam()),
        np.random.default_rng(1),
    )
    trained = train_loop(small_net, start, samples, training, np.random.default_rng(0))
    assert trained.loss < first.loss - 0.05
    assert trained.measures.keys() == {"embedding-std"}
    assert 0 < trained.measures["embedding-std"] < 1 / math.sqrt(16) + 1e-6
    again = train_loop(small_net, start, samples, training, np.random.default_rng(0))
    assert all(np.array_equal(trained.arrays[key], again.arrays[key]) for key in start)


def test_an_objective_goes_by_the_loop_alone(small_net):
    told = obstacle_to_vectorising(small_net, LocalTraining(objective=SimSiam()))
    assert told is not None
    assert "objective" in told


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_shares_of_labels_that_are_none_are_refused(share):
    with pytest.raises(ConfigError, match="probe-labels"):
        SimSiam(probe_labels=share)


def test_what_is_no_objective_and_no_weight_is_refused():
    with pytest.raises(ConfigError, match="it must be callable"):
        LocalTraining(objective="simsiam")
    with pytest.raises(ConfigError, match="personal-weight is -1"):
        PersonalSimSiam(weight=-1)
