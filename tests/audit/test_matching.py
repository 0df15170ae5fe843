"""What candidates would have sent: against fedeff's own client, torch's gradients and differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit.views import SmoothNet, digits, largest_known, seeded, some_known, view_of
from torch import nn

from fedeff.audit.naive import naive
from fedeff.audit.replay.jacobian import jacobian
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import Exchange, ServerView, Told
from fedeff.clients import LocalTraining
from fedeff.clients.dp_sgd import DpSgd
from fedeff.core.errors import AuditError
from fedeff.models import build


def _cnn() -> nn.Module:
    return build("cnn", input_shape=(1, 8, 8))


def _tensors(x, y):
    return torch.from_numpy(x).double(), torch.from_numpy(y)


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(epochs=3, batch_size=4, learning_rate=0.1),
        LocalTraining(steps=3, batch_size=4, optimizer="momentum", momentum=0.9, learning_rate=0.1),
        LocalTraining(epochs=4, batch_size=4, weight_decay=0.1, prox_mu=0.3, learning_rate=0.1),
    ],
    ids=["sgd", "momentum", "decay-and-prox"],
)
@pytest.mark.parametrize("make", [_cnn, SmoothNet], ids=["cnn", "smooth"])
def test_unrolled_steps_are_those_of_the_client(make, training):
    x, y = digits(4)  # one batch a pass: its order does not matter
    view, _ = view_of(seeded(make), x, y, training=training, exact=True)
    (simulated,) = Matching(view).simulated(*_tensors(x, y))
    for key, told in view.first.told.items():
        np.testing.assert_allclose(simulated[key], told.values, rtol=1e-9, atol=1e-13)


def test_batches_follow_the_order_of_the_rows():
    x, y = digits(5)
    training = LocalTraining(epochs=2, batch_size=2, learning_rate=0.1)
    view, _ = view_of(seeded(SmoothNet), x, y, training=training, exact=True)
    network = view.public.network()
    for begin in (0, 2, 4, 0, 2, 4):
        xs, ys = _tensors(x[begin : begin + 2], y[begin : begin + 2])
        network.zero_grad()
        F.cross_entropy(network(xs), ys).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.1 * p.grad
    (simulated,) = Matching(view).simulated(*_tensors(x, y))
    for key, after in network.named_parameters():
        moved = after.detach().numpy() - view.first.weights[key]
        np.testing.assert_allclose(simulated[key], moved, rtol=1e-9, atol=1e-13)


def test_rows_that_no_step_saw_are_not_sought():
    x, y = digits(9)
    view, _ = view_of(seeded(SmoothNet), x, y, training=LocalTraining(steps=2, batch_size=3))
    assert Matching(view).rows == 6


@pytest.mark.parametrize("shares", ["equal", "unequal"])
def test_a_sum_of_clients_of_one_step_is_the_mean_of_their_changes_by_examples(shares):
    sizes = (3, 3) if shares == "equal" else (1, 4)
    x, y = digits(sum(sizes))
    parts = [(x[: sizes[0]], y[: sizes[0]]), (x[sizes[0] :], y[sizes[0] :])]
    views = [view_of(seeded(SmoothNet), *part, exact=True)[0] for part in parts]
    told = {
        key: Told(
            sum(n * view.first.told[key].values for n, view in zip(sizes, views, strict=True)) / sum(sizes)
        )
        for key in views[0].first.told
    }
    summed = replace(views[0].first, told=told, examples=sum(sizes), clients=2)
    found = Matching(replace(views[0], exchanges=(summed,))).squared(*_tensors(x, y))
    assert float(found) < 1e-20


def test_clients_of_a_sum_that_take_several_steps_take_them_each_for_itself():
    x, y = digits(4)
    training = LocalTraining(epochs=3, batch_size=2, learning_rate=0.5)
    views = [
        view_of(seeded(SmoothNet), x[at], y[at], training=training, exact=True)[0]
        for at in (slice(0, 2), slice(2, 4))
    ]
    told = {
        key: Told((views[0].first.told[key].values + views[1].first.told[key].values) / 2)
        for key in views[0].first.told
    }
    summed = replace(views[0].first, told=told, examples=4, clients=2)
    found = Matching(replace(views[0], exchanges=(summed,))).squared(*_tensors(x, y))
    assert float(found) < 1e-20


@pytest.mark.parametrize("scale", ["layer", "noise"])
def test_the_gradient_of_the_squared_residual_is_that_of_differences(scale):
    x, y = digits(2)
    network = seeded(SmoothNet)
    known = some_known(network, 0.5)
    training = LocalTraining(epochs=2, batch_size=2, learning_rate=0.5)
    view, _ = view_of(network, x, y, training=training, noise=1e-3, known=known)
    matching, at = Matching(view, scale=scale), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    at.requires_grad_(True)
    (gradient,) = torch.autograd.grad(matching.squared(at, torch.from_numpy(y)), at)
    direction = torch.ones_like(at)
    with torch.no_grad():
        ends = [matching.squared(at + step * direction, torch.from_numpy(y)) for step in (-1e-5, 1e-5)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[1] - ends[0]) / 2e-5, rel=1e-5)


def test_a_rectified_network_can_be_differentiated_forwards_and_in_reverse():
    x, y = digits(2)
    view, _ = view_of(_cnn(), x, y)
    matching, labels = Matching(view), torch.from_numpy(y)
    at = torch.from_numpy(digits(2, seed=5)[0]).double() * 0.7 + 0.1
    columns = torch.randn(3, *at.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def along(direction):
        return torch.func.jvp(lambda z: matching.residual(z, labels), (at,), (direction,))[1]

    forwards = torch.func.vmap(along)(columns)
    _, back = torch.func.vjp(lambda z: matching.residual(z, labels), at)
    probe = torch.randn(forwards.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    both = [(forwards @ probe), (columns * back(probe)[0]).flatten(1).sum(1)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-9)


def test_unknown_entries_and_their_values_do_not_matter():
    x, y = digits(1)
    network = seeded(SmoothNet)
    known = some_known(network, 0.1)
    view, _ = view_of(network, x, y, known=known, exact=True)
    found = Matching(view).residual(*_tensors(x, y))
    assert len(found) == sum(mask.sum() for mask in known.values())
    assert float(found.abs().max()) < 1e-9


def test_what_is_left_out_counts_where_it_is_beyond_its_bound_and_nowhere_else():
    x, y = digits(2)
    whole, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    view, other = largest_known(whole), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    matching, blind = Matching(view, scale="none"), Matching(view, scale="none", bounds="none")
    at, labels = _tensors(x, y)
    assert float(matching.squared(at, labels)) < 1e-20
    assert float(matching.cosine(at, labels)) == pytest.approx(0, abs=1e-9)
    (simulated,) = matching.simulated(other, labels)
    beyond = sum(
        np.sum(np.maximum(np.abs(simulated[key].numpy()) - one.within, 0)[~one.known] ** 2)
        for key, one in view.first.told.items()
    )
    assert beyond > 0
    added = float(matching.squared(other, labels) - blind.squared(other, labels))
    assert added == pytest.approx(beyond)
    assert float(matching.cosine(other, labels)) >= float(blind.cosine(other, labels))
    # The Jacobian by rows is that of the whole.
    whole_rows = torch.func.jacrev(lambda z: matching.residual(z, labels))(other).flatten(1).T
    torch.testing.assert_close(jacobian(matching, other, labels), whole_rows)


def test_the_middle_of_the_bounds_stands_for_what_did_not_come():
    x, y = digits(2)
    view = largest_known(view_of(seeded(SmoothNet), x, y, exact=True)[0])
    other, labels = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.from_numpy(y)
    central = Matching(view, scale="none", bounds="centre").residual(other, labels)
    torch.testing.assert_close(central, Matching(naive(view), scale="none").residual(other, labels))


def test_residuals_are_in_units_of_what_is_told():
    x, y = digits(1)
    view, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    other = torch.zeros(1, 1, 8, 8, dtype=torch.float64), torch.from_numpy(y)
    (simulated,) = Matching(view).simulated(*other)
    expected = sum(
        (np.linalg.norm(simulated[key].numpy() - told.values) / np.linalg.norm(told.values)) ** 2
        for key, told in view.first.told.items()
    )
    assert float(Matching(view).squared(*other)) == pytest.approx(expected)
    noisy, _ = view_of(seeded(SmoothNet), x, y, noise=0.1)
    errors = Matching(noisy, scale="noise").residual(*_tensors(x, y))
    assert float(errors.std()) == pytest.approx(1, abs=0.03)


def test_the_cosine_does_not_see_how_long_the_change_is():
    x, y = digits(2)
    view, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    short = {key: Told(told.values / 7) for key, told in view.first.told.items()}
    clipped = replace(view, exchanges=(replace(view.first, told=short),))
    assert float(Matching(clipped).cosine(*_tensors(x, y))) == pytest.approx(0, abs=1e-9)
    away = float(Matching(clipped).cosine(torch.zeros(2, 1, 8, 8, dtype=torch.float64), torch.from_numpy(y)))
    assert away > 1e-4


def test_exchanges_on_the_same_rows_are_matched_together():
    x, y = digits(2)
    views = [view_of(seeded(SmoothNet, seed), x, y, exact=True)[0] for seed in (0, 1)]
    both = ServerView(views[0].public, (views[0].first, views[1].first))
    assert len(Matching(both).residual(*_tensors(x, y))) == 2 * len(
        Matching(views[0]).residual(*_tensors(x, y))
    )
    assert float(Matching(both).squared(*_tensors(x, y))) < 1e-20
    assert len(Matching(replace(both, same_rows=False)).simulated(*_tensors(x, y))) == 1


def test_certain_probabilities_are_labels():
    x, y = digits(3)
    view, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    at, labels = _tensors(x, y)
    assert float(Matching(view).squared(at, F.one_hot(labels, 10).double())) < 1e-20


def test_embeddings_stand_in_for_tokens():
    tokens = np.random.default_rng(0).integers(0, 90, (2, 6))
    view, _ = view_of(build("gru", classes=90, input_shape=(5,)), tokens[:, :-1], tokens[:, 1:], classes=90)
    matching, labels = Matching(view), torch.from_numpy(tokens[:, 1:].copy())
    by_token = matching.simulated(torch.from_numpy(tokens[:, :-1].copy()), labels)[0]
    by_row = matching.simulated(matching.embedding[tokens[:, :-1]], labels)[0]
    assert by_token.keys() - by_row.keys() == {"embedding.weight"}
    for key, rows in by_row.items():
        torch.testing.assert_close(rows, by_token[key])


def test_smoothing_tends_to_the_rectified_network():
    x, y = digits(2)
    view, _ = view_of(_cnn(), x, y, exact=True)
    losses = [
        float(Matching(view, smoothing=width).squared(*_tensors(x, y))) for width in (0.1, 1e-3, 1e-6, 0)
    ]
    assert losses[0] > losses[1] > losses[2]
    assert losses[3] < 1e-20


class _Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.fc(x.flatten(1))), inplace=True))


def test_batches_are_normalised_as_when_training_and_statistics_stay():
    x, y = digits(6)
    view, _ = view_of(seeded(_Normalised), x, y, exact=True)
    assert float(Matching(view).squared(*_tensors(x, y))) < 1e-20


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": LocalTraining(optimizer="adam")}, "adam"),
        ({"training": LocalTraining(perturbation="smooth-out")}, "smooth-out"),
        ({"training": LocalTraining(autocast=True)}, "autocast"),
        ({"examples": 0}, "how many rows"),
        ({"told": {}}, "nothing is known"),
    ],
)
def test_what_cannot_be_replayed_is_named(changes, named):
    view, _ = view_of(seeded(SmoothNet), *digits(2))
    exchange: Exchange = replace(view.first, **changes)
    with pytest.raises(AuditError, match=named):
        Matching(replace(view, exchanges=(exchange,)))


def test_dropout_is_named():
    def make():
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))

    view, _ = view_of(seeded(make), *digits(2))
    with pytest.raises(AuditError, match="dropout"):
        Matching(view)


@pytest.mark.parametrize("order", [1, 2])
def test_a_clipped_change_is_as_long_as_allowed(order):
    x, y = digits(2)
    view, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    clipped = replace(view.first, clipping_norm=1e-3, clipping_order=order)
    (simulated,) = Matching(replace(view, exchanges=(clipped,))).simulated(*_tensors(x, y))
    flat = torch.cat([one.flatten() for one in simulated.values()])
    assert float(torch.linalg.vector_norm(flat, order)) == pytest.approx(1e-3)
    loose = replace(view.first, clipping_norm=1e6, clipping_order=order)
    assert float(Matching(replace(view, exchanges=(loose,))).squared(*_tensors(x, y))) < 1e-20


@pytest.mark.parametrize("clipping_norm", [1e-2, 1e6])
def test_rows_are_clipped_one_by_one_under_dp_sgd(clipping_norm):
    x, y = digits(3)
    training = LocalTraining(epochs=2, batch_size=3, dp_sgd=DpSgd(clipping_norm, seeded=True))
    view, _ = view_of(seeded(SmoothNet), x, y, training=training, exact=True)
    matching = Matching(view)
    assert float(matching.squared(*_tensors(x, y))) < 1e-12
    assert not matching.separable


def test_each_row_adds_its_share():
    x, y = digits(3)
    view, _ = view_of(seeded(SmoothNet), x, y)
    matching, (at, labels) = Matching(view), _tensors(x, y)
    other = torch.rand_like(at)
    moved = matching.residual(other, labels) - matching.residual(at, labels)
    shares = [
        matching.share(other[[i]], labels[[i]], i) - matching.share(at[[i]], labels[[i]], i) for i in range(3)
    ]
    assert matching.separable
    torch.testing.assert_close(sum(shares), moved)


def test_arrays_that_are_stale_and_arrays_of_rounding_alone_do_not_count():
    x, y = digits(2)
    view, _ = view_of(seeded(SmoothNet), x, y, exact=True)
    spoilt = {**view.first.told, "conv1.weight": Told(view.first.told["conv1.weight"].values + 1)}
    stale = replace(view.first, told=spoilt, stale=frozenset({"conv1.weight"}))
    assert float(Matching(replace(view, exchanges=(stale,))).squared(*_tensors(x, y))) < 1e-20
