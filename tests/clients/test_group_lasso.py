"""Groups of weights that shrink to nothing: who belongs to them, by hand, and what pulls them."""

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.clients import LocalTraining, train_loop
from fedeff.clients.data import prepared
from fedeff.clients.penalty import Penalty
from fedeff.clients.structure import GROUPS, GroupLasso, Sparsity, hidden_groups, structured_groups
from fedeff.core.errors import ConfigError
from fedeff.models import Slice, Units, build
from fedeff.models.recurrent import CharacterModel, Gru, Lstm

Entry = tuple[str, int]  # an array and the place of an entry in it, in C order
Group = frozenset[Entry]


class Tiny(nn.Module):
    """Two filters of 2x1 over one channel, a flattened pixel pair each, one hidden unit pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.out = nn.Conv2d(1, 2, (2, 1)), nn.Linear(4, 2), nn.Linear(2, 3)

    def units(self) -> tuple[Units, ...]:
        made = (Slice("conv.weight", 0), Slice("conv.bias", 0))
        return (
            Units("conv", "filter", made, (Slice("fc.weight", 1, span=2),)),
            Units("fc", "neuron", (Slice("fc.weight", 0), Slice("fc.bias", 0)), (Slice("out.weight", 1),)),
        )

    def blocks(self) -> tuple[str, ...]:
        return ()


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: parameter.detach().clone() for key, parameter in module.named_parameters()}


def entries(key: str, places: Sequence[int]) -> set[Entry]:
    return {(key, place) for place in places}


def groups_found(penalty: GroupLasso, weights: dict[str, torch.Tensor]) -> set[Group]:
    """The groups, by which entries get a pull when the members' other groups are empty."""
    numbered = {key: torch.arange(w.numel()).view(w.shape) for key, w in weights.items()}
    found = set()
    for family in penalty.families:
        count = family.squares(weights).numel()
        for group in range(count):
            members: set[Entry] = set()
            for member in family.members:
                view = member.view(numbered[member.key])
                rest = view.shape[len(member.axes) :]
                places = view.reshape(-1, *rest)[group].flatten().tolist()
                if member.repeated:
                    assert entries(member.key, places) <= members
                else:
                    members |= entries(member.key, places)
            assert len(members) == family.size(weights)
            found.add(frozenset(members))
    return found


def test_filters_channels_and_neurons_by_hand() -> None:
    model = Tiny()
    weights = weights_of(model)

    def found(*names: str) -> set[Group]:
        return groups_found(GroupLasso(structured_groups(model, names), 1.0), weights)

    # conv.weight is (2, 1, 2, 1), fc.weight (2, 4): two pixels of the first filter, two of the second.
    assert found("filters") == {
        frozenset(entries("conv.weight", [0, 1]) | entries("conv.bias", [0])),
        frozenset(entries("conv.weight", [2, 3]) | entries("conv.bias", [1])),
    }
    assert found("channels") == {
        frozenset(entries("fc.weight", [0, 1, 4, 5])),
        frozenset(entries("fc.weight", [2, 3, 6, 7])),
    }
    assert found("neurons") == {
        frozenset(entries("fc.weight", [0, 1, 2, 3]) | entries("fc.bias", [0])),
        frozenset(entries("fc.weight", [4, 5, 6, 7]) | entries("fc.bias", [1])),
    }
    assert found("shapes") == {
        frozenset(entries("conv.weight", [0, 2])),
        frozenset(entries("conv.weight", [1, 3])),
    }
    assert found("kernels") == {
        frozenset(entries("conv.weight", [0, 1])),
        frozenset(entries("conv.weight", [2, 3])),
    }
    assert found("kernels", "shapes") == found("kernels") | found("shapes")


def test_depth_is_all_of_a_block() -> None:
    model = build("resnet20-small")
    (first, *rest) = structured_groups(model, ["depth"])
    assert len(rest) == 8
    assert {member.key for member in first.members} == {
        f"stages.0.{key}"
        for key in (
            "conv1.weight",
            "norm1.weight",
            "norm1.bias",
            "conv2.weight",
            "norm2.weight",
            "norm2.bias",
        )
    }
    assert first.size(weights_of(model)) == 2 * (8 * 8 * 9 + 8 + 8)


@pytest.mark.parametrize(("layer", "gates"), [(Lstm, 4), (Gru, 3)])
def test_a_hidden_unit_is_its_gates_its_row_and_its_receivers(
    layer: type[Lstm] | type[Gru], gates: int
) -> None:
    """By hand for 3 hidden units of 2 inputs, 5 classes; a state's weight on itself counts once."""
    model = CharacterModel(layer, 5)
    model.embedding, model.recurrent, model.head = nn.Embedding(5, 2), layer(2, 3), nn.Linear(3, 5)
    expected = set()
    for unit in range(3):
        rows = [gate * 3 + unit for gate in range(gates)]
        group = entries("recurrent.weight_ih_l0", [row * 2 + i for row in rows for i in range(2)])
        group |= entries("recurrent.weight_hh_l0", [row * 3 + h for row in rows for h in range(3)])
        group |= entries("recurrent.weight_hh_l0", [row * 3 + unit for row in range(gates * 3)])
        group |= entries("head.weight", [row * 3 + unit for row in range(5)])
        expected.add(frozenset(group))
    weights = weights_of(model)
    penalty = GroupLasso(hidden_groups(model), 0.3)
    assert groups_found(penalty, weights) == expected
    by_hand = 0.3 * sum(
        math.sqrt(1e-8 + sum(float(weights[key].flatten()[place]) ** 2 for key, place in group))
        for group in expected
    )
    assert float(penalty.value(weights)) == pytest.approx(by_hand, rel=1e-5)


PENALTIES = [
    ("cnn", Sparsity("ssl", 0.02)),
    ("cnn", Sparsity("ssl", 0.02, groups=GROUPS[:5])),
    ("mlp", Sparsity("ssl", 0.5)),
    ("resnet20-small", Sparsity("ssl", 0.1, groups=GROUPS)),
    ("lstm", Sparsity("iss", 0.7)),
    ("gru", Sparsity("iss", 0.7)),
]


@pytest.mark.parametrize(("name", "sparsity"), PENALTIES)
def test_the_pull_is_the_gradient_of_the_penalty(name: str, sparsity: Sparsity) -> None:
    model = build(name).double()
    penalty = sparsity.penalty(model)
    assert isinstance(penalty, GroupLasso)
    weights = dict(model.named_parameters())
    expected = torch.autograd.grad(penalty.value(weights), list(weights.values()), allow_unused=True)
    gradients = {key: torch.full_like(value, 2.0).detach() for key, value in weights.items()}
    with torch.no_grad():
        penalty.add_to(weights, gradients)
    for key, gradient in zip(weights, expected, strict=True):
        pull = torch.zeros_like(weights[key]) if gradient is None else gradient
        torch.testing.assert_close(gradients[key], 2.0 + pull)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), threshold=st.floats(0.01, 2))
def test_groups_under_the_threshold_are_zeroed_and_no_others(seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    model = Tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    weights = weights_of(model)
    penalty = GroupLasso(structured_groups(model, ["filters", "neurons"]), 1.0, threshold)
    before = {key: value.clone() for key, value in weights.items()}
    penalty.after_step(weights)
    zeroed: set[Entry] = set()
    for group in groups_found(penalty, before):
        values = [float(before[key].flatten()[place]) for key, place in group]
        if math.sqrt(sum(value**2 for value in values) / len(values)) <= threshold:
            zeroed |= group
    for key, value in weights.items():
        expected = before[key].flatten().tolist()
        for place in range(len(expected)):
            if (key, place) in zeroed:
                expected[place] = 0.0
        assert value.flatten().tolist() == expected


def test_without_a_threshold_nothing_is_zeroed() -> None:
    model = Tiny()
    weights = {key: torch.full_like(value, 1e-30) for key, value in weights_of(model).items()}
    GroupLasso(structured_groups(model, GROUPS), 1.0).after_step(weights)
    assert all(float(value.min()) > 0 for value in weights.values())


def test_groups_of_zeros_get_no_pull() -> None:
    model = Tiny()
    weights = {key: torch.zeros_like(value) for key, value in weights_of(model).items()}
    gradients = {key: torch.zeros_like(value) for key, value in weights.items()}
    GroupLasso(structured_groups(model, GROUPS), 1.0).add_to(weights, gradients)
    assert all(bool((gradient == 0).all()) for gradient in gradients.values())


def test_training_with_the_penalty_leaves_fewer_units() -> None:
    """The loop applies it: pixels decide the class, so few hidden units do."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 1, 4, 4), np.float32)
    samples = prepared(x, (x.mean((1, 2, 3)) > 0.5).astype(np.int64), "cpu")
    model = build("mlp", classes=2, input_shape=(1, 4, 4))
    arrays = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    alive = []
    for strength in (0.0, 0.02):
        penalty = Sparsity("ssl", strength, threshold=0.03, groups=("neurons",)).penalty(model)
        training = LocalTraining(epochs=30, learning_rate=0.2, penalty=penalty)
        after = train_loop(model, arrays, samples, training, np.random.default_rng(1)).arrays
        alive.append(int((np.abs(after["fc1.weight"]).sum(1) > 0).sum()))
    assert alive[0] == 64
    assert 0 < alive[1] < 40


def test_penalties_are_values() -> None:
    for name, sparsity in PENALTIES:
        penalty = sparsity.penalty(build(name))
        assert isinstance(penalty, Penalty)
        assert pickle.loads(pickle.dumps(penalty)) == penalty == sparsity.penalty(build(name))
        assert hash(penalty) == hash(sparsity.penalty(build(name)))


def test_layers_that_do_not_train_are_left_out() -> None:
    model = Tiny()
    model.conv.weight.requires_grad_(False)
    assert [family.name for family in structured_groups(model, ["filters", "neurons"])] == ["fc"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="group of weights 'filter'; did you mean 'filters'"):
        structured_groups(build("cnn"), ["filter"])
    for name, sparsity, complaint in (
        (
            "mlp",
            Sparsity("ssl", 1.0, groups=("filters", "depth")),
            r"Perceptron has no groups filters\+depth",
        ),
        ("logistic", Sparsity("ssl", 1.0), "Logistic has no groups"),
        ("cnn", Sparsity("iss", 1.0), "LeNet has no hidden units"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            sparsity.penalty(build(name))
        assert sparsity.remaining(build(name)) is None
    for change in ({"strength": -1.0}, {"strength": float("nan")}, {"threshold": -0.1}, {"epsilon": 0.0}):
        with pytest.raises(ConfigError, match=f"got {next(iter(change))}"):
            GroupLasso((), **({"strength": 1.0} | change))
    with pytest.raises(ConfigError, match="sparsity 'sll'; did you mean 'ssl'"):
        Sparsity("sll", 1.0)  # type: ignore[arg-type]
