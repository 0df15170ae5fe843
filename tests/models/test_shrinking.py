"""A model with zeros, and the smaller one that is made of it: the same outputs, whatever is zero."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import Slice, Structure, apply, build, describe, shrink, units_of, what_can_go
from fedeff.models.normalisation import PartialGroupNorm

SHRINKABLE = ["cnn", "mlp", "resnet20-small", "gru", "lstm", "transformer", "logistic"]
SEEDS = st.integers(0, 2**32 - 1)


def grown(name: str, seed: int, input_shape: tuple[int, ...] | None = None) -> nn.Module:
    """A model whose biases and norms, too, are as after some training."""
    card = describe(name, input_shape=input_shape)
    model = build(name, classes=card.classes, input_shape=card.input_shape, seed=seed % 1000)
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def inputs(name: str, input_shape: tuple[int, ...] | None = None) -> torch.Tensor:
    card = describe(name, input_shape=input_shape)
    if card.task == "classify":
        return torch.rand(3, *card.input_shape)
    return torch.randint(card.classes, (2, 11))


def zero(model: nn.Module, slices: tuple[Slice, ...], unit: int) -> None:
    state = model.state_dict()
    for one in slices:
        one.view(state[one.key])[unit] = 0


def masked(model: nn.Module, rng: np.random.Generator) -> dict[str, set[int]]:
    """Zero a random part of each set of units, by what makes them or by what reads them; say which."""
    gone = {}
    for units in units_of(model):
        made = units.incoming[0]
        count = made.count(model.state_dict()[made.key].shape[made.axis])
        chosen = rng.permutation(count)[: rng.integers(0, count + 1)].tolist()
        for unit in chosen:
            incoming = units.normalised or rng.random() < 0.5
            zero(model, units.incoming if incoming else units.outgoing, unit)
        gone[units.name] = set(chosen)
    return gone


def agree(model: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(other.double()(x), model.double()(x), rtol=0, atol=1e-10)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", SHRINKABLE)
def test_a_shrunk_model_gives_what_the_masked_one_gives(name: str, seed: int) -> None:
    model = grown(name, seed)
    gone = masked(model, np.random.default_rng(seed))
    change, weights = shrink(model, {key: values.numpy() for key, values in model.state_dict().items()})
    small = apply(change, model)
    for key, units in gone.items():
        kept = set(change.kept.get(key, ()))
        assert len(kept) == 1 or not kept & units  # all that can go went; one is always left
    small.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()})
    x = inputs(name)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-6 * float(model(x).abs().amax()))
    agree(model, small, doubled(x))


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_resnet20_shrinks_too(seed: int) -> None:
    model = grown("resnet20", seed)
    masked(model, np.random.default_rng(seed))
    small = apply(what_can_go(model), model)
    agree(model, small, doubled(inputs("resnet20")))


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
@pytest.mark.parametrize(("name", "shape"), [("cnn", (1, 8, 8)), ("cnn", (3, 32, 32)), ("mlp", (1, 8, 8))])
def test_other_input_shapes_shrink_too(name: str, shape: tuple[int, ...], seed: int) -> None:
    """Small images are padded: a filter that is zero must not come back from a bias at the border."""
    model = grown(name, seed, shape)
    masked(model, np.random.default_rng(seed))
    agree(model, apply(what_can_go(model), model), doubled(inputs(name, shape)))


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, silent=st.sets(st.integers(0, 8)))
def test_blocks_that_add_nothing_go(seed: int, silent: set[int]) -> None:
    model = grown("resnet20-small", seed)
    for place in silent:
        norm = model.get_submodule(f"stages.{place}.norm2")
        with torch.no_grad():
            norm.weight.zero_(), norm.bias.zero_()
    masked(model, np.random.default_rng(seed))
    change = what_can_go(model)
    small = apply(change, model)
    assert change.bypassed == tuple(f"stages.{place}" for place in sorted(silent))
    assert not any(key.startswith(tuple(f"stages.{p}." for p in silent)) for key in small.state_dict())
    agree(model, small, doubled(inputs("resnet20-small")))


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, edges=st.tuples(*[st.integers(0, 2)] * 4))
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8)])
def test_kernels_lose_rows_and_columns_that_are_zero(
    shape: tuple[int, ...], seed: int, edges: tuple[int, ...]
) -> None:
    model = grown("cnn", seed, shape)
    top, bottom, left, right = edges
    weight = model.get_parameter("conv2.weight").data
    weight[:, :, :top] = weight[:, :, 5 - bottom :] = 0
    weight[..., :left] = weight[..., 5 - right :] = 0
    change = what_can_go(model)
    small = apply(change, model)
    height, width = 5 - top - bottom, 5 - left - right
    assert small.get_parameter("conv2.weight").shape[2:] == (height, width)
    agree(model, small, doubled(inputs("cnn", shape)))


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", SHRINKABLE)
def test_shrinking_twice_is_shrinking_once_by_what_both_left(name: str, seed: int) -> None:
    model, rng = grown(name, seed), np.random.default_rng(seed)
    structure, here = Structure(), copy.deepcopy(model)
    for _ in range(2):
        masked(here, rng)
        change = what_can_go(here)
        structure, here = structure.then(change), apply(change, here)
    once = apply(structure, model)
    assert structure.version == 2
    assert {k: v.shape for k, v in once.state_dict().items()} == {
        k: v.shape for k, v in here.state_dict().items()
    }
    once.load_state_dict(here.state_dict())
    agree(here, once, doubled(inputs(name)))


def test_a_structure_survives_its_json_and_pickle() -> None:
    structure = Structure(3, {"b": (1, 4), "a": (0,)}, ("stages.1",), {"conv2": (0, 1, 4, 3)}, {"conv1": 5})  # type: ignore[dict-item]
    assert Structure.from_json(structure.json) == structure
    assert pickle.loads(pickle.dumps(structure)) == structure
    assert list(structure.kept) == ["a", "b"]
    assert Structure().json == "{}"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"kpt":{}}',
        '{"version":-1}',
        '{"version":true}',
        '{"kept":{"conv1":[]}}',
        '{"kept":{"conv1":[3,1]}}',
        '{"kept":{"conv1":[-1]}}',
        '{"kept":{"conv1":[0.5]}}',
        '{"kept":{"conv1":7}}',
        '{"kept":[1]}',
        '{"windows":{"conv1":[0,0,0,1]}}',
        '{"windows":{"conv1":[0,0,1]}}',
        '{"ranks":{"conv1":0}}',
        '{"ranks":{"conv1":"2"}}',
        '{"bypassed":[1]}',
        '{"bypassed":3}',
        "[" * 100_000,
    ],
)
def test_what_is_no_structure_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="structure"):
        Structure.from_json(text)


@pytest.mark.parametrize(
    ("structure", "complaint"),
    [
        (Structure(1, {"conv9": (0,)}), "units of LeNet 'conv9'; did you mean 'conv2' or 'conv1'"),
        (Structure(1, {"conv1": (0, 16)}), "keeps unit 16 of 'conv1', which has 16"),
        (Structure(1, bypassed=("conv1",)), "block of LeNet 'conv1'"),
        (Structure(1, windows={"conv1": (0, 0, 6, 5)}), "no part of a kernel of 5x5"),  # type: ignore[dict-item]
        (Structure(1, windows={"fc1": (0, 0, 1, 1)}), "convolution of LeNet 'fc1'"),  # type: ignore[dict-item]
        (Structure(1, ranks={"conv1": 17}), "cannot have rank 17; expected 1 to 16"),
    ],
)
def test_a_structure_of_another_model_is_refused(structure: Structure, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        apply(structure, build("cnn"))


def test_modules_that_say_nothing_of_their_units_are_refused() -> None:
    with pytest.raises(ConfigError, match="Linear does not say which of its units can go"):
        what_can_go(nn.Linear(2, 2))


def test_units_under_the_threshold_go_and_the_strongest_stays() -> None:
    model = build("mlp")
    with torch.no_grad():
        model.get_parameter("fc1.weight").fill_(1e-3)
        model.get_parameter("fc1.bias").fill_(1e-3)
        model.get_parameter("fc1.weight")[5] = 1.5e-3
    assert not what_can_go(model, 0.9e-3).kept
    assert what_can_go(model, 1.2e-3).kept == {"fc1": (5,)}
    assert what_can_go(model, 10.0).kept == {"fc1": (5,)}


def test_the_module_and_the_weights_that_were_given_are_left_as_they_are() -> None:
    model = grown("lstm", 1)
    weights = {key: values.numpy().copy() for key, values in model.state_dict().items()}
    for units in units_of(model):
        zero(model, units.incoming, 3)
    given = {key: values.numpy().copy() for key, values in model.state_dict().items()}
    before = copy.deepcopy(given)
    shrink(build("lstm", classes=90), given)
    assert all(np.array_equal(given[key], before[key]) for key in given)
    assert all(weights[key].shape == value.shape for key, value in model.state_dict().items())


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, lost=st.sets(st.integers(0, 7)), more=st.sets(st.integers(0, 7)))
def test_a_norm_without_some_channels_counts_them_as_zeros(seed: int, lost: set[int], more: set[int]) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    norm = nn.GroupNorm(4, 8).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8, generator=generator))
        norm.bias.copy_(torch.randn(8, generator=generator))
    x = torch.randn(2, 8, 3, 5, generator=generator, dtype=torch.float64)
    partial: nn.GroupNorm | PartialGroupNorm = norm
    left = list(range(8))
    for gone in (lost, more):
        kept = [place for place, channel in enumerate(left) if channel not in gone] or [0]
        left = [left[place] for place in kept]
        partial = PartialGroupNorm(partial, kept)
    zeros = torch.zeros_like(x)
    zeros[:, left] = x[:, left]
    torch.testing.assert_close(partial(x[:, left]), norm(zeros)[:, left])


def test_smaller_models_train_and_are_vectorised_like_others() -> None:
    model = grown("resnet20-small", 3)
    masked(model, np.random.default_rng(3))
    small = apply(what_can_go(model), model)
    x = torch.rand(4, 2, 1, 28, 28)
    weights = {key: torch.stack([value.detach()] * 4) for key, value in small.named_parameters()}
    given = torch.func.vmap(lambda w, x: torch.func.functional_call(small, w, (x,)))(weights, x)
    torch.testing.assert_close(given, torch.stack([small(one) for one in x]))
    assert all(p.requires_grad for p in small.parameters())
    sizes = [sum(p.numel() for p in one.parameters()) for one in (small, model)]
    assert all(a < b for a, b in pairwise(sizes))
