"""Weights as Hadamard products of low-rank factors."""

import math

import pytest
import torch
from apps.whole_models import built, inputs_of, size
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import FedPara, build, merge
from fedeff.models.composed import Composed
from fedeff.models.fed_para import entries_at, highest_rank, lowest_rank
from fedeff.models.recurrent import Gru


def test_ranks_and_sizes_by_hand() -> None:
    # Table 1 of the paper: of 256 x 256 kernels of 3x3 the tensor form at R = 16 has 21 thousand entries.
    assert entries_at((256, 256, 3, 3), 16) == 2 * 16 * (256 + 256 + 16 * 9)
    assert entries_at((100, 50), 4) == 2 * 4 * 150
    # R^2 must reach 64; 16 of 25 or more columns; 32 filters, though there are 16 channels.
    assert [lowest_rank(shape) for shape in ((64, 512), (16, 1, 5, 5), (32, 16, 5, 5), (7, 7))] == [
        8,
        4,
        6,
        3,
    ]
    # 2 R 576 stays below 32,768 up to 28; one of 72 entries below 8 kernels only for R = 1 (36).
    assert [highest_rank(shape) for shape in ((64, 512), (8, 1, 3, 3), (2, 2))] == [28, 1, 0]
    assert FedPara(0.5).rank_of((64, 512)) == (8 + 28) // 2
    assert [FedPara(rank=rank).rank_of((64, 512)) for rank in (3, 40)] == [3, 28]
    assert [FedPara(ratio).rank_of((8, 1, 3, 3)) for ratio in (0.0, 1.0)] == [0, 0]


def test_the_cnn_by_hand() -> None:
    small = FedPara().apply(build("cnn"))
    own = {key: tuple(values.shape) for key, values in small.state_dict().items()}
    assert own["conv1.weight"] == (16, 1, 5, 5)
    assert own["conv2.weight_t1"] == own["conv2.weight_t2"] == (6, 6, 5, 5)
    assert (own["conv2.weight_x1"], own["conv2.weight_y1"]) == ((32, 6), (16, 6))
    assert (own["fc1.weight_x2"], own["fc1.weight_y2"]) == ((64, 8), (512, 8))
    conv2, fc1, fc2 = 12 * (48 + 6 * 25), 16 * (64 + 512), 8 * (10 + 64)
    assert size(small) == 416 + (conv2 + 32) + (fc1 + 64) + (fc2 + 10) == 12_706
    assert size(small) == sum(values.numel() for values in small.state_dict().values())


@pytest.mark.parametrize(("shape", "rank"), [((20, 16), 4), ((12, 8, 3, 3), 4), ((9, 30), 3)])
def test_the_rank_exceeds_that_of_the_factors_and_reaches_its_square(shape, rank: int) -> None:
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 3)
    weight = FedPara(rank=rank).apply(layer).double().weights()["weight"].detach()
    assert rank == lowest_rank(shape)
    for unfolded in (weight.flatten(1), weight.transpose(0, 1).flatten(1)):
        assert int(torch.linalg.matrix_rank(unfolded)) == min(*unfolded.shape, rank * rank)
    one = FedPara(rank=1).apply(layer).double().weights()["weight"].detach()
    assert int(torch.linalg.matrix_rank(one.flatten(1))) == 1


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 3), seed=st.integers(0, 99), kernel=st.booleans())
def test_outputs_and_gradients_are_those_of_composing_by_hand(rank: int, seed: int, kernel: bool) -> None:
    torch.manual_seed(seed)
    layer = (nn.Conv2d(6, 9, 3, stride=2, padding=1) if kernel else nn.Linear(16, 12)).double()
    composed = FedPara(rank=rank).apply(layer, seed).double()
    x = torch.randn(4, 6, 7, 5) if kernel else torch.randn(4, 16)
    own = dict(composed.named_parameters())
    factors = []
    for which in "12":
        # By sums over all indices, with the core of a matrix an identity.
        core = own[f"weight_t{which}"] if kernel else torch.eye(rank)[:, :, None, None].double()
        x_, y_ = own[f"weight_x{which}"], own[f"weight_y{which}"]
        factors.append(
            (x_[:, None, :, None, None, None] * y_[None, :, None, :, None, None] * core).sum((2, 3))
        )
    weight = (factors[0] * factors[1]).view(layer.weight.shape)
    by_hand = torch.func.functional_call(layer, {"weight": weight, "bias": own["bias"]}, (x.double(),))
    torch.testing.assert_close(composed(x.double()), by_hand)
    torch.testing.assert_close(
        torch.autograd.grad(composed(x.double()).square().sum(), list(own.values())),
        torch.autograd.grad(by_hand.square().sum(), list(own.values())),
    )


@pytest.mark.parametrize("shape", [(32, 16, 5, 5), (64, 512)])
@pytest.mark.parametrize("rank", [1, 6])
def test_weights_have_the_variance_of_he(shape: tuple[int, ...], rank: int) -> None:
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 5)
    weight = FedPara(rank=rank).apply(layer, 3).weights()["weight"]
    assert float(weight.detach().square().mean()) == pytest.approx(2 / math.prod(shape[1:]), rel=1e-4)
    again = FedPara(rank=rank).apply(layer, 3).weights()["weight"]
    assert torch.equal(weight, again)
    assert not torch.equal(weight, FedPara(rank=rank).apply(layer, 4).weights()["weight"])


def test_recurrent_weights_keep_their_variance() -> None:
    layer = Gru(16, 32)
    composed = FedPara().apply(layer)
    for name, weight in composed.weights().items():
        if name.startswith("weight"):
            own = getattr(layer, name).detach().var(unbiased=True)
            assert float(weight.detach().square().mean()) == pytest.approx(float(own), rel=1e-3)


@pytest.mark.parametrize("name", ["cnn", "resnet20-small", "gru", "lstm", "transformer", "logistic"])
def test_models_are_smaller_and_merge_into_plain_ones(name: str) -> None:
    model, x = built(name), inputs_of(name)
    small = FedPara(rank=2).apply(model)
    assert size(small) < size(model)
    plain = merge(small)
    assert not any(isinstance(one, Composed) for one in plain.modules())
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    torch.testing.assert_close(plain(x), small(x), rtol=0, atol=1e-5)


def test_what_becomes_no_smaller_stays_and_a_model_of_such_layers_is_refused() -> None:
    small = FedPara().apply(build("resnet20-small"))
    assert isinstance(small.conv, nn.Conv2d)  # 72 weights; their lowest rank takes 216
    assert isinstance(small.fc, nn.Linear)
    assert isinstance(small.stages[8].conv2, Composed)
    with pytest.raises(ConfigError, match="no layer of Linear has fewer parameters at its lowest rank"):
        FedPara().apply(nn.Linear(4, 4))
    grouped = nn.Sequential(nn.Conv2d(32, 32, 3, groups=2), nn.Conv2d(32, 32, 3, padding_mode="circular"))
    with pytest.raises(ConfigError, match="no layer of Sequential"):
        FedPara().apply(grouped)


@pytest.mark.parametrize(("values", "said"), [({"ratio": 1.5}, "from 0 to 1"), ({"rank": -1}, "at least 1")])
def test_impossible_ranks_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FedPara(**values)
