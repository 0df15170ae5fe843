"""Imprint layers: crafted by the server, trained by clients, read from differences of neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.audit.attacks.imprint import Imprint
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.imprinted import imprinted, imprinted_weights, weights_suffice
from fedeff.audit.view import NDArray, ServerView, Told
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError, ConfigError
from fedeff.models import build
from tests.audit.views import digits, some_known, view_of

SAMPLES = digits(200, seed=99)[0]


def crafted(name: str, bins: int = 128) -> nn.Module:
    """What the server sends in place of a model of this name."""
    network = build(name, input_shape=(1, 8, 8))
    view, _ = view_of(network, *digits(1))
    rng = np.random.default_rng(0)
    if name != "mlp":
        return imprinted(network, view.public, bins, SAMPLES, rng)
    arrays = imprinted_weights(view.public, view.first.weights, SAMPLES, rng)
    network.load_state_dict({key: torch.from_numpy(values) for key, values in arrays.items()})
    return network


def read(view: ServerView) -> Finding:
    found = Imprint().run(view, Budget(60), np.random.default_rng(0))
    assert found.inputs is not None
    return found


def exact(found: Finding, x: NDArray, y: NDArray) -> int:
    """How many rows came out as they are, with their label."""
    assert found.inputs is not None
    assert found.labels is not None
    apart = np.abs(found.inputs[:, None] - x[None]).reshape(len(found.inputs), len(x), -1).max(2)
    return int((found.labels[apart.argmin(0)] == y)[apart.min(0) < 1e-3].sum())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_inputs_alone_in_their_bin_are_exact_and_counted(name: str) -> None:
    x, y = digits(8, seed=1)
    found = read(view_of(crafted(name), x, y)[0])
    assert exact(found, x, y) == found.facts["confirmed"] >= 6


def test_a_sum_of_three_clients_hides_nobody() -> None:
    network, parts = crafted("cnn", bins=256), [digits(4, seed=seed) for seed in (1, 2, 3)]
    views = [view_of(network, x, y)[0] for x, y in parts]
    told = {
        key: Told(np.mean([view.first.told[key].values for view in views], axis=0))
        for key in views[0].first.told
    }
    summed = replace(views[0], exchanges=(replace(views[0].first, told=told, examples=12, clients=3),))
    x, y = (np.concatenate(both) for both in zip(*parts, strict=True))
    found = read(summed)
    assert exact(found, x, y) == found.facts["confirmed"] >= 10


def test_pixels_that_are_not_known_do_not_spoil_the_others() -> None:
    network, (x, y) = crafted("cnn"), digits(2, seed=4)
    known = {key: np.ones(value.shape, bool) for key, value in network.state_dict().items()}
    known["imprint.weight"][::2, 9] = False  # of each pair of neighbours one
    found = read(view_of(network, x, y, known=known)[0]).inputs
    assert found is not None
    told = np.delete(found.reshape(len(found), -1), 9, axis=1)
    rows = np.delete(x.reshape(2, -1), 9, axis=1)
    assert np.abs(told[:, None] - rows[None]).max(2).min(0).max() < 1e-3
    assert (found.reshape(len(found), -1)[:, 9] == 0.5).all()


def test_the_crafted_network_keeps_the_shapes() -> None:
    network = crafted("cnn")
    assert network(torch.from_numpy(digits(3)[0])).shape == (3, 10)


def test_weights_suffice_where_dense_layers_come_first() -> None:
    views = {
        name: view_of(build(name, input_shape=(1, 8, 8)), *digits(1))[0]
        for name in ("mlp", "logistic", "cnn")
    }
    assert [weights_suffice(view.public, view.first.weights) for view in views.values()] == [
        True,
        False,
        False,
    ]
    cnn = views["cnn"]
    with pytest.raises(AuditError, match="changes its code"):
        imprinted_weights(cnn.public, cnn.first.weights, SAMPLES, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("network", "training", "message"),
    [
        (build("mlp", input_shape=(1, 8, 8)), LocalTraining(), "has no imprint layer"),
        (crafted("mlp"), LocalTraining(epochs=2), "took 2 local steps"),
    ],
)
def test_what_it_cannot_read_is_said(network: nn.Module, training: LocalTraining, message: str) -> None:
    view, _ = view_of(network, *digits(2), training=training)
    with pytest.raises(AuditError, match=message):
        Imprint().run(view, Budget(60), np.random.default_rng(0))


def test_wrong_samples_and_bins_are_errors() -> None:
    network = build("cnn", input_shape=(1, 8, 8))
    public = view_of(network, *digits(1))[0].public
    for bins, samples, message in (
        (1, SAMPLES, "bins is 1"),
        (8, SAMPLES[:1], "at least 2 inputs"),
        (8, SAMPLES[:, :, :4], "of 64 values"),
        (8, np.ones((3, 64)), "all alike"),
    ):
        with pytest.raises(ConfigError, match=message):
            imprinted(network, public, bins, samples, np.random.default_rng(0))


def test_nothing_known_of_the_imprint_gives_nothing() -> None:
    network = crafted("cnn")
    view, _ = view_of(network, *digits(2), known=some_known(network, 0.0))
    assert Imprint().run(view, Budget(60), np.random.default_rng(0)).inputs is None
