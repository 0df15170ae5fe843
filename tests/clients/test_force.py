"""Force regularisation against a naive double loop over filters."""

import pickle
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.clients.penalty import Penalty
from fedeff.clients.structure import Force, Sparsity
from fedeff.clients.structure.force import turning
from fedeff.core.errors import ConfigError
from fedeff.models import Structure, apply, average_rank_ratio, build

Norm = Literal["l1", "l2"]
NORMS: list[Norm] = ["l1", "l2"]


def naive(filters: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Equation 3.2, filter by filter."""
    moved = torch.zeros_like(filters)
    for i, own in enumerate(filters):
        if not own.norm() > 0:
            continue
        w_i = own / own.norm()
        for j, other in enumerate(filters):
            if i == j or not other.norm() > 0:
                continue
            force = other / other.norm() - w_i
            if norm == "l1":
                if not force.norm() > 0:
                    continue
                force = force / force.norm()
            moved[i] += own.norm() * (force - force.dot(w_i) * w_i)
    return moved


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), filters=st.integers(1, 6), entries=st.integers(1, 8), data=st.data())
@pytest.mark.parametrize("norm", NORMS)
def test_forces_as_in_the_double_loop(
    norm: Norm, seed: int, filters: int, entries: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(filters, entries, generator=generator, dtype=torch.float64)
    for row in data.draw(st.sets(st.integers(0, filters - 1))):
        rows[row] = 0
    if filters > 2 and data.draw(st.booleans()):
        rows[1] = rows[0]
    torch.testing.assert_close(turning(rows, norm), naive(rows, norm))


def test_two_filters_by_hand() -> None:
    """At right angles, lengths 3 and 2: each is pulled along the other, as far as it is long."""
    rows = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(turning(rows, "l2"), torch.tensor([[0.0, 3.0], [2.0, 0.0]]))
    torch.testing.assert_close(turning(rows, "l1"), torch.tensor([[0.0, 3.0], [2.0, 0.0]]) / 2**0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
@pytest.mark.parametrize("norm", NORMS)
def test_filters_turn_and_keep_their_length(norm: Norm, seed: int) -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    along = (turning(rows, norm) * rows).sum(1)
    torch.testing.assert_close(along, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("direction", ["attract", "repel"])
def test_gradients_get_the_movement_with_its_sign(norm: Norm, direction: Literal["attract", "repel"]) -> None:
    model = build("cnn").to(memory_format=torch.channels_last)
    force = Force(("conv1.weight", "conv2.weight"), 0.01, norm, direction)
    weights = {key: p.detach() for key, p in model.named_parameters()}
    gradients = {key: torch.ones_like(value) for key, value in weights.items()}
    force.add_to(weights, gradients)
    sign = 1 if direction == "attract" else -1
    for key, weight in weights.items():
        filters = key in ("conv1.weight", "conv2.weight")
        moved = turning(weight.flatten(1), norm).view(weight.shape) if filters else torch.zeros_like(weight)
        torch.testing.assert_close(gradients[key], 1 - sign * 0.01 * moved)


@pytest.mark.parametrize("norm", NORMS)
def test_attraction_lowers_the_rank_and_repulsion_does_not(norm: Norm) -> None:
    ratios = []
    for direction in ("attract", "repel"):
        model = build("cnn")
        penalty = Sparsity("force", 0.02, norm=norm, direction=direction).penalty(model)  # type: ignore[arg-type]
        weights = {key: p.detach() for key, p in model.named_parameters()}
        for _ in range(40):
            gradients = {key: torch.zeros_like(value) for key, value in weights.items()}
            penalty.add_to(weights, gradients)
            for key, weight in weights.items():
                weight.sub_(gradients[key], alpha=0.5)
            penalty.after_step(weights)
        ratios.append(average_rank_ratio(model))
    assert ratios[0] < 0.3 < average_rank_ratio(build("cnn")) <= ratios[1] + 0.05


def test_force_is_a_value_on_the_convolutions_that_are_whole() -> None:
    penalty = Sparsity("force", 0.1).penalty(build("cnn"))
    assert isinstance(penalty, Penalty)
    assert penalty == Force(("conv1.weight", "conv2.weight"), 0.1)
    assert pickle.loads(pickle.dumps(penalty)) == penalty
    split = apply(Structure(1, ranks={"conv2": 3}), build("cnn"))
    assert Sparsity("force", 0.1).penalty(split) == Force(("conv1.weight",), 0.1)
    nothing_left = apply(Structure(1, ranks={"conv1": 3, "conv2": 3}), build("cnn"))
    assert Sparsity("force", 0.1).remaining(nothing_left) is None


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="force norm 'l3'"):
        Force((), 1.0, "l3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="force direction 'push'"):
        Force((), 1.0, "l2", "push")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="strength -1"):
        Force((), -1.0)
    with pytest.raises(ConfigError, match="Linear has no convolutions"):
        Sparsity("force", 1.0).penalty(nn.Linear(2, 2))
