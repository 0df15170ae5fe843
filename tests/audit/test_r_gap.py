"""R-GAP: one input by linear solves from the last layer to the first."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.audit.attacks.layers.layer_chain import Activation, chain_of
from fedeff.audit.attacks.layers.layer_patches import patches_of
from fedeff.audit.attacks.r_gap import RGap
from fedeff.audit.finding import Budget
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models import build
from tests.audit.views import SmoothNet, digits, psnr, seeded, some_known, view_of


def convolutions(activation: Callable[[], nn.Module]) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            activation(),
            nn.Conv2d(6, 8, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
    )


def pooled(*first: nn.Module, side: int) -> nn.Module:
    """Some layers that leave 12 channels of that side, and dense layers."""
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(12 * side**2, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: build("cnn", input_shape=(1, 8, 8)), 60),
        (lambda: pooled(nn.Conv2d(1, 12, 3, padding=2), nn.AvgPool2d(2), nn.Tanh(), side=5), 60),
        (lambda: pooled(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), side=4), 60),
    ],
    ids=["cnn", "mean", "few filters"],
)
def test_pooling_is_undone(make: Callable[[], nn.Module], least: float) -> None:
    view, truth = view_of(seeded(make), *digits(1, seed=4), kind="gradient")
    found = RGap().run(view, Budget(60), np.random.default_rng(0))
    assert found.inputs is not None
    assert psnr(found.inputs, truth.inputs) > least
    assert found.converged


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, stride=2)), "overlap"),
        ((nn.Conv2d(1, 3, 3), nn.MaxPool2d(2, padding=1)), "overlap"),
        ((nn.Conv2d(1, 3, 3), nn.MaxPool2d(2, ceil_mode=True)), "overlap"),
        ((nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2)), "means after an activation"),
        ((nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.MaxPool2d(2)), "not pool what a convolution gave"),
        ((nn.MaxPool2d(2), nn.Conv2d(1, 3, 3)), "cannot be undone"),
    ],
    ids=["overlap", "padding", "ceiling", "mean-of-relu", "twice", "first"],
)
def test_pooling_that_cannot_be_undone_is_refused(layers: tuple[nn.Module, ...], message: str) -> None:
    network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
    network(torch.zeros(1, 1, 8, 8))
    with pytest.raises(AuditError, match=message):
        chain_of(network, (1, 8, 8))


def test_the_adjoint_of_patches_is_their_transpose() -> None:
    rng = torch.Generator().manual_seed(0)
    for pooling in (nn.MaxPool2d(2), nn.AvgPool2d((2, 3)), nn.Identity()):
        network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), pooling, nn.Flatten(), nn.LazyLinear(2))
        network(torch.zeros(1, 2, 6, 7))
        patches = patches_of(chain_of(network.double(), (2, 6, 7))[0])
        x = torch.randn(2, 6, 7, generator=rng, dtype=torch.float64)
        u = torch.randn(patches.of(x).shape, generator=rng, dtype=torch.float64)
        assert torch.isclose((patches.of(x) * u).sum(), (x * patches.back(u)).sum())


@pytest.mark.parametrize(
    ("network", "least"),
    [
        (seeded(SmoothNet), 90),
        (convolutions(nn.Tanh), 90),
        (convolutions(lambda: nn.LeakyReLU(0.2)), 60),
        (build("mlp", input_shape=(1, 8, 8)), 100),
        (build("logistic", input_shape=(1, 8, 8)), 100),
    ],
)
def test_a_chain_of_layers_gives_its_input_and_label_away(network: nn.Module, least: float) -> None:
    x, y = digits(1, seed=1)
    view, truth = view_of(network, x, y, kind="gradient")
    found = RGap().run(view, Budget(60), np.random.default_rng(0))
    assert found.inputs is not None
    assert psnr(found.inputs, truth.inputs) > least
    assert found.labels == y
    assert found.converged


def test_half_of_the_gradient_is_enough() -> None:
    x, y = digits(1, seed=2)
    network = seeded(SmoothNet)
    known = some_known(network, 0.5) | {"fc.bias": np.ones(10, bool)}
    view, truth = view_of(network, x, y, known=known)
    found = RGap().run(view, Budget(60), np.random.default_rng(0))
    assert found.inputs is not None
    assert psnr(found.inputs, truth.inputs) > 80


@pytest.mark.parametrize("kind", ["relu", "leaky-relu", "sigmoid", "tanh", "none"])
def test_an_activation_is_undone_where_it_can_be(kind: str) -> None:
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "relu": F.relu,
        "leaky-relu": lambda z: F.leaky_relu(z, 0.3),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "none": lambda z: 1 * z,
    }
    z = torch.linspace(-3, 3, 8, dtype=torch.float64).requires_grad_()
    y = functions[kind](z)
    (slopes,) = torch.autograd.grad(y.sum(), [z])
    activation = Activation(kind, 0.3)  # type: ignore[arg-type]
    before, seen = activation.inverse(y.detach())
    assert torch.allclose(before[seen], z.detach()[seen])
    assert bool(seen.all()) == (kind != "relu")
    assert torch.allclose(activation.derivative(y.detach()), slopes)


class _Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        logits: torch.Tensor = self.head(self.fc(x) + x)
        return logits


@pytest.mark.parametrize(
    ("network", "training", "message"),
    [
        (build("resnet20-small", input_shape=(1, 8, 8)), LocalTraining(), "norm"),
        (_Shortcut(), LocalTraining(), "more than the layer before"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()), LocalTraining(), "without an activation"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
            LocalTraining(),
            "not dense with a bias",
        ),
        (build("mlp", input_shape=(1, 8, 8)), LocalTraining(epochs=2), "2 steps"),
    ],
)
def test_what_it_cannot_undo_is_said(network: nn.Module, training: LocalTraining, message: str) -> None:
    view, _ = view_of(network, *digits(1), training=training)
    with pytest.raises(AuditError, match=message):
        RGap().run(view, Budget(60), np.random.default_rng(0))


def test_the_links_are_named_with_their_shapes() -> None:
    links = chain_of(convolutions(nn.Tanh), (1, 8, 8))
    assert [(link.name, link.reads, link.gives, link.after.kind) for link in links] == [
        ("0", (1, 8, 8), (6, 8, 8), "tanh"),
        ("2", (6, 8, 8), (8, 8, 8), "tanh"),
        ("5", (512,), (10,), "none"),
    ]


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_layer_whose_units_are_all_off_ends_in_a_guess(noise):
    x, y = digits(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    nn.init.constant_(network[1].bias, -100.0)
    finding = RGap().run(view_of(network, x, y, noise=noise)[0], Budget(30), np.random.default_rng(0))
    assert finding.labels.tolist() == y.tolist()
    assert np.isfinite(finding.inputs).all()
