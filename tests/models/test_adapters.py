"""Low-rank adapters on frozen weights."""

import copy

import pytest
import torch
from apps.whole_models import built, inputs_of, size
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import LoRA, build, merge
from fedeff.models.composed import Composed

NAMES = ["cnn", "resnet20-small", "gru", "lstm", "transformer", "mlp"]


def moved(module: nn.Module, seed: int) -> nn.Module:
    """A copy with noise on all that is trained."""
    module, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize("extras", [(), ("biases", "norms", "head")])
@pytest.mark.parametrize("name", NAMES)
def test_adapters_begin_at_the_base_and_fold_into_it(name: str, extras: tuple[str, ...]) -> None:
    model, x = built(name), inputs_of(name)
    adapted = LoRA(rank=2, extras=extras).apply(model)
    torch.testing.assert_close(adapted(x), model(x), rtol=0, atol=1e-6)
    trained = moved(adapted, 1)
    assert not torch.allclose(trained(x), model(x), atol=1e-3)
    folded = merge(trained)
    assert not any(isinstance(one, Composed) for one in folded.modules())
    assert list(folded.state_dict()) == list(model.state_dict())
    assert size(folded) == size(model)
    torch.testing.assert_close(folded(x), trained(x), rtol=0, atol=1e-6)


def test_adapters_alone_travel() -> None:
    """Arrays of the CNN by hand: of each weight r outputs and r inputs, a kernel's times its window."""
    adapted = LoRA(rank=3).apply(build("cnn"))
    shapes = {key: tuple(values.shape) for key, values in adapted.state_dict().items()}
    assert shapes == {
        "conv1.weight_a": (3, 25),
        "conv1.weight_b": (16, 3),
        "conv2.weight_a": (3, 400),
        "conv2.weight_b": (32, 3),
        "fc1.weight_a": (3, 512),
        "fc1.weight_b": (64, 3),
        "fc2.weight_a": (3, 64),
        "fc2.weight_b": (10, 3),
    }
    assert size(adapted) == 3 * (25 + 16 + 400 + 32 + 512 + 64 + 64 + 10)
    biases = LoRA(rank=3, extras=("biases",)).apply(build("cnn"))
    assert size(biases) == size(adapted) + 16 + 32 + 64 + 10
    head = LoRA(rank=3, extras=("head",)).apply(build("cnn"))
    assert size(head) == size(adapted) - 3 * 74 + 650
    alone = LoRA(rank=3, freeze_a=True).apply(build("cnn"))
    assert size(alone) == 3 * (16 + 32 + 64 + 10)


def test_norms_count_as_norms_and_small_layers_are_trained_whole() -> None:
    model = build("resnet20-small")
    keys = set(LoRA(rank=4, extras=("norms",)).apply(model).state_dict())
    assert {"norm.weight", "norm.bias", "stages.0.norm1.weight"} <= keys
    assert "fc.bias" not in keys
    # 8 kernels of 9 weights: an adapter of rank 4 has 68 entries, of rank 5 more than the 72 it adapts.
    for rank, kept in ((4, {"conv.weight_a", "conv.weight_b"}), (5, {"conv.weight"})):
        keys = set(LoRA(rank=rank).apply(model).state_dict())
        assert {key for key in keys if key.startswith("conv.")} == kept


def test_what_is_added_is_scaled_by_alpha_over_rank() -> None:
    layer = nn.Linear(5, 4)
    for alpha, scale in ((0.0, 1.0), (6.0, 3.0)):
        adapted = LoRA(rank=2, alpha=alpha).apply(layer)
        a, b = adapted.weight_a, adapted.weight_b
        with torch.no_grad():
            b.copy_(torch.arange(8.0).view(4, 2))
        expected = layer.weight + scale * sum(torch.outer(b[:, r], a[r]) for r in range(2))
        torch.testing.assert_close(adapted.weights()["weight"], expected)


def test_frozen_weights_have_no_gradient_and_cannot_move() -> None:
    adapted, x = LoRA(rank=2).apply(built("gru")), inputs_of("gru")
    before = adapted(x)
    adapted(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapted.parameters())
    assert not {"embedding.weight", "recurrent.weight_hh_l0_base"} & set(dict(adapted.named_parameters()))
    # A zero B gets the first gradient; A's is zero as long as B is.
    assert float(adapted.recurrent.weight_hh_l0_b.grad.abs().max()) > 0
    assert float(adapted.recurrent.weight_hh_l0_a.grad.abs().max()) == 0
    adapted.load_state_dict({key: values + 1 for key, values in adapted.state_dict().items()})
    adapted.load_state_dict(LoRA(rank=2).apply(built("gru")).state_dict())
    torch.testing.assert_close(adapted(x), before)


def test_the_mean_of_factors_is_not_the_mean_of_products_unless_a_is_frozen() -> None:
    """Two clients by hand: B A is 1 with both, and so is their mean; the factors' means make 1.5625."""
    zeros = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        zeros.weight.zero_()
    clients = [LoRA(rank=1).apply(zeros) for _ in range(2)]
    with torch.no_grad():
        for one, a, b in zip(clients, (2.0, 0.5), (0.5, 2.0), strict=True):
            one.weight_a.fill_(a)
            one.weight_b.fill_(b)
    assert all(bool((one.weights()["weight"] == 1).all()) for one in clients)
    assert bool((mean(clients).weights()["weight"] == 1.25**2).all())


@pytest.mark.parametrize("freeze_a", [False, True])
def test_means_of_trained_models(freeze_a: bool) -> None:
    base = LoRA(rank=2, freeze_a=freeze_a).apply(nn.Linear(6, 5))
    clients = [moved(base, seed) for seed in range(3)]
    weights = [one.weights()["weight"] for one in clients]
    error = mean(clients).weights()["weight"] - sum(weights) / 3
    assert (float(error.detach().abs().max()) < 1e-6) == freeze_a


def mean(clients: list[nn.Module]) -> nn.Module:
    """What FedAvg makes of equal clients."""
    states = [one.state_dict() for one in clients]
    made = copy.deepcopy(clients[0])
    made.load_state_dict({key: sum(state[key] for state in states) / len(states) for key in states[0]})
    return made


def test_all_clients_know_the_base_by_the_seed() -> None:
    one, other = (LoRA(freeze_a=True).apply(build("mlp", seed=5), 5) for _ in range(2))
    other.load_state_dict(moved(one, 2).state_dict())
    same = moved(one, 2)
    x = inputs_of("mlp")
    assert torch.equal(other(x), same(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LoRA(rank=0), "at least 1"),
        (lambda: LoRA(alpha=-1), "lora-alpha"),
        (lambda: LoRA(extras=("bias",)), "biases"),
        (lambda: LoRA().apply(nn.GroupNorm(2, 4)), "no layer that can be adapted"),
    ],
)
def test_what_cannot_be_is_refused(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
