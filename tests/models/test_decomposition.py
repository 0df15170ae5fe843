"""Ranks of filters, and convolutions as basis filters and a 1x1 convolution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import (
    Structure,
    apply,
    average_rank_ratio,
    build,
    convolutions,
    rank_of,
    saving_ranks,
    units_of,
    what_can_go,
)
from fedeff.models.decomposition import DecomposedConv2d

SEEDS = st.integers(0, 2**31 - 1)


def of_rank(rank: int, filters: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    entries = int(np.prod(shape))
    product = torch.randn(filters, rank, generator=generator) @ torch.randn(
        rank, entries, generator=generator
    )
    return product.view(filters, *shape)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, filters=st.integers(1, 6), channels=st.integers(1, 3), size=st.integers(1, 3))
def test_at_full_rank_nothing_is_lost(seed: int, filters: int, channels: int, size: int) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels, filters, size, stride=1 + seed % 2, padding=seed % 3, bias=seed % 5 > 0)
    split = DecomposedConv2d(conv, min(filters, channels * size * size))
    x = torch.randn(2, channels, 7, 6)
    torch.testing.assert_close(split(x), conv(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "resnet20-small"])
def test_a_whole_model_decomposed_at_full_rank_agrees(name: str) -> None:
    model, x = build(name), torch.rand(3, 1, 28, 28)
    full = {key: min(conv.weight.flatten(1).shape) for key, conv in convolutions(model).items()}
    split = apply(Structure(1, ranks=full), model)
    torch.testing.assert_close(split(x), model(x), rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, rank=st.integers(1, 4))
def test_the_rank_is_the_fewest_components_that_leave_the_error(seed: int, rank: int) -> None:
    weight = of_rank(rank, 6, (2, 3, 3), seed)
    assert rank_of(weight, 0.0) <= rank
    # By hand: eigenvalues of W W^T, largest first.
    matrix = weight.flatten(1).numpy().astype(np.float64)
    eigenvalues = np.sort(np.linalg.eigvalsh(matrix @ matrix.T))[::-1]
    shares = [eigenvalues[m:].sum() / eigenvalues.sum() for m in range(1, 7)]
    assert rank_of(weight) == 1 + next(m for m, share in enumerate(shares) if share <= 0.05)


def test_ranks_by_hand() -> None:
    # Squared singular values 81, 16, 3: after one 19% are left, after two 3%.
    weight = torch.diag(torch.tensor([9.0, 4.0, 3.0**0.5])).view(3, 3, 1, 1)
    assert [rank_of(weight, error) for error in (0.2, 0.05, 0.03, 0.02, 0.0)] == [1, 2, 2, 3, 3]
    assert rank_of(torch.zeros(4, 2, 3, 3)) == 1
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(weight)
        model[1].weight.copy_(weight[:2])
    assert average_rank_ratio(model) == pytest.approx((2 / 3 + 2 / 2) / 2)
    assert np.isnan(average_rank_ratio(nn.Linear(2, 2)))


def test_only_convolutions_that_get_cheaper_are_decomposed() -> None:
    # 8 filters of 2*3*3 entries: 144 weights whole, 26 a basis filter decomposed: up to 5 pay.
    conv = nn.Conv2d(2, 8, 3, bias=False)
    for rank in (1, 5, 6):
        with torch.no_grad():
            conv.weight.copy_(of_rank(rank, 8, (2, 3, 3), 3))
        chosen = saving_ranks(nn.Sequential(conv), error=1e-9)
        assert chosen == ({"0": rank} if rank <= 5 else {})


def test_a_low_rank_is_the_best_approximation_of_its_rank() -> None:
    conv = nn.Conv2d(3, 8, 3, bias=False)
    split = DecomposedConv2d(conv, 2)
    product = split.mix.weight.flatten(1) @ split.basis.weight.flatten(1)
    left = (product - conv.weight.flatten(1)).detach().double().square().sum()
    singular = torch.linalg.svdvals(conv.weight.detach().double().flatten(1))
    assert float(left) == pytest.approx(float(singular[2:].square().sum()), rel=1e-5)


def test_a_decomposed_model_shrinks_further_and_a_shrunk_one_decomposes() -> None:
    """Units are cut first, whatever came first in time, so the numbers of units keep their meaning."""
    model, x = build("cnn").double(), torch.rand(2, 1, 28, 28, dtype=torch.float64)
    split = Structure().then(Structure(ranks={"conv2": 4}))
    here = apply(split, model)
    by_name = {units.name: units for units in units_of(here)}
    assert [one.key for one in by_name["conv2"].incoming] == ["conv2.mix.weight", "conv2.mix.bias"]
    assert [one.key for one in by_name["conv1"].outgoing] == ["conv2.basis.weight"]
    with torch.no_grad():
        for one in (*by_name["conv1"].incoming, *by_name["conv2"].incoming):
            one.view(here.state_dict()[one.key])[3:] = 0
    change = what_can_go(here)
    assert change.kept == {"conv1": (0, 1, 2), "conv2": (0, 1, 2)}
    smaller = apply(change, here)
    torch.testing.assert_close(smaller(x), here(x))
    rebuilt = apply(split.then(change), model)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in smaller.state_dict().items()
    }


def test_decomposed_models_train() -> None:
    torch.manual_seed(0)
    model = apply(Structure(1, ranks={"conv1": 4, "conv2": 6}), build("cnn"))
    x, y = torch.rand(32, 1, 28, 28), torch.randint(0, 10, (32,))
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_impossible_ranks_are_refused() -> None:
    for rank in (0, 9):
        with pytest.raises(ConfigError, match=f"cannot have rank {rank}; expected 1 to 8"):
            DecomposedConv2d(nn.Conv2d(3, 8, 3), rank)
    with pytest.raises(ConfigError, match="in 2 group"):
        DecomposedConv2d(nn.Conv2d(4, 8, 3, groups=2), 2)
