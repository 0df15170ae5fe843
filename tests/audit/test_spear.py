"""SPEAR: whole batches from a dense layer with a ReLU, and where it says that it cannot."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from torch import nn

from fedeff.audit.attacks.row_space import fitted, in_row_space
from fedeff.audit.attacks.sparse_directions import candidates, factorise, zeros_of
from fedeff.audit.attacks.spear import Spear
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.truth import Truth
from fedeff.audit.view import Kind
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError, ConfigError
from fedeff.models import build
from tests.audit.views import digits, seeded, some_known, view_of


def wide(width: int = 200) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)), seed=1
    )


def errors(found: Finding, truth: Truth) -> tuple[float, int]:
    """The largest error over matched inputs, and how many labels are right."""
    assert found.inputs is not None
    assert found.labels is not None
    apart = (
        np.abs(found.inputs[:, None] - truth.inputs[None]).reshape(len(found.inputs), len(truth), -1).max(2)
    )
    mine, theirs = linear_sum_assignment(apart)
    return float(apart[mine, theirs].max()), int((found.labels[mine] == truth.labels[theirs]).sum())


@pytest.mark.parametrize(("kind", "seed"), [("gradient", 0), ("change", 1)])
def test_eight_rows_are_exact_with_their_labels(kind: Kind, seed: int) -> None:
    x, y = digits(8, seed)
    view, truth = view_of(wide(), x, y, kind=kind)
    found = Spear().run(view, Budget(60), np.random.default_rng(0))
    apart, right = errors(found, truth)
    assert apart < 1e-4
    assert right == 8
    assert found.converged


def test_local_steps_on_parts_of_the_rows_leave_as_many_directions() -> None:
    x, y = digits(4, seed=3)
    training = LocalTraining(epochs=2, batch_size=2, learning_rate=0.01)
    view, truth = view_of(wide(), x, y, training=training)
    found = Spear().run(view, Budget(60), np.random.default_rng(0))
    assert errors(found, truth)[0] < 1e-3


def test_the_perceptron_of_the_app_gives_away_three_rows() -> None:
    x, y = digits(3, seed=5)
    view, truth = view_of(build("mlp", input_shape=(1, 8, 8)), x, y)
    apart, right = errors(Spear().run(view, Budget(60), np.random.default_rng(0)), truth)
    assert apart < 1e-4
    assert right == 3


def test_units_that_did_not_come_whole_are_left_out() -> None:
    x, y = digits(2, seed=6)
    network = wide()
    keep = {key: np.ones(value.shape, bool) for key, value in network.state_dict().items()}
    keep["1.weight"][::2, 5] = False
    view, truth = view_of(network, x, y, known=keep)
    assert errors(Spear().run(view, Budget(60), np.random.default_rng(0)), truth)[0] < 1e-4


def test_a_sparse_column_is_among_the_candidates() -> None:
    rng = np.random.default_rng(0)
    sparse = rng.standard_normal((60, 3)) * (rng.random((60, 3)) < 0.5)
    factors = factorise(sparse @ rng.standard_normal((3, 40)), 5, 1e-12)
    assert factors.rank == 3
    found = candidates(factors, 500, rng)
    told = {tuple(row) for row in zeros_of(factors, found)}
    assert {tuple(column == 0) for column in sparse.T} <= told


def test_mixtures_of_rows_are_told_apart_by_the_whole_exchange() -> None:
    x, y = digits(2, seed=7)
    view, truth = view_of(wide(30), x, y, kind="gradient")
    rows = truth.inputs.reshape(2, -1)
    basis = np.linalg.qr(rows.T)[0].T
    narrow = in_row_space(view, "1.weight", basis)
    assert narrow is not None
    assert narrow.first.weights["1.weight"].shape == (30, 2)
    mixed = np.array([[0.9, 0.15], [0.1, 0.8]]) @ rows
    found, loss = fitted(narrow, mixed @ basis.T, y, Budget(60))
    assert np.abs(found @ basis - rows).max() < 1e-5
    assert loss < 1e-8


def test_rows_without_a_zero_of_their_own_are_fitted_from_anywhere() -> None:
    x, y = digits(2, seed=8)
    view, truth = view_of(wide(20), np.stack([x[0], 0.5 * x[0] + 0.5 * x[1]]), y)
    found = Spear(samples=1).run(view, Budget(60), np.random.default_rng(1))
    assert errors(found, truth)[0] < 1e-3
    assert found.facts["restarts"] > 0


@pytest.mark.parametrize(
    ("network", "training", "message"),
    [
        (build("cnn", input_shape=(1, 8, 8)), LocalTraining(), "not dense on the input"),
        (build("logistic", input_shape=(1, 8, 8)), LocalTraining(), "no bias and ReLU"),
        (wide(), LocalTraining(optimizer="adam"), "'adam' changes weights"),
        (wide(), LocalTraining(epochs=2, weight_decay=0.1), "weight decay"),
    ],
)
def test_what_it_cannot_read_is_said(network: nn.Module, training: LocalTraining, message: str) -> None:
    view, _ = view_of(network, *digits(2), training=training)
    with pytest.raises(AuditError, match=message):
        Spear().run(view, Budget(60), np.random.default_rng(0))


def test_pruned_updates_and_empty_wishes_are_refused() -> None:
    network = wide()
    view, _ = view_of(network, *digits(2), known=some_known(network, 0.5))
    assert "came whole" in str(Spear().obstacle(view))
    with pytest.raises(ConfigError, match="samples is 0"):
        Spear(samples=0)
    with pytest.raises(ConfigError, match="restarts is -1"):
        Spear(restarts=-1)
