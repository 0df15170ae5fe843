"""The Jacobian, its rank, and the bounds that follow, on models with known answers."""

import numpy as np
import pytest
import torch
from audit.views import SmoothNet, digits, seeded, view_of
from torch import nn

from fedeff.audit.replay.bounds import cramer_rao, information, psnr_of, van_trees
from fedeff.audit.replay.jacobian import Linearised, jacobian, rank
from fedeff.audit.replay.matching import Matching
from fedeff.clients import LocalTraining
from fedeff.core.errors import ConfigError
from fedeff.models import build


def _view(rows: int, **options):
    x, y = digits(rows)
    view, _ = view_of(seeded(SmoothNet), x, y, **options)
    return view, torch.from_numpy(x).double(), torch.from_numpy(y)


@pytest.mark.parametrize(
    "options",
    [{}, {"training": LocalTraining(epochs=2, batch_size=2, learning_rate=0.5)}],
    ids=["one", "two"],
)
def test_columns_are_differences_and_products_agree(options):
    view, x, y = _view(2, **options)
    matching = Matching(view)
    assert matching.separable is not bool(options)
    columns = jacobian(matching, x, y, columns_at_once=50)
    step = torch.zeros_like(x)
    step[1, 0, 3, 4] = 1e-6
    slope = (matching.residual(x + step, y) - matching.residual(x - step, y)) / 2e-6
    torch.testing.assert_close(columns[64 + 28], slope, rtol=1e-6, atol=1e-7)
    near = Linearised(matching, x, y)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(near.forward(direction), direction.flatten() @ columns)
    torch.testing.assert_close(near.back(near.residual).flatten(), columns @ matching.residual(x, y))


def test_what_is_told_of_a_dense_layer_moves_as_the_formula_says():
    """Logistic regression: `dW = (p - e_y) x'`, `db = p - e_y` and p = softmax(Wx + b)."""
    network = build("logistic", input_shape=(1, 2, 2)).double()
    x = np.array([[[[0.2, 0.7], [0.1, 0.9]]]])
    y = np.array([3])
    view, _ = view_of(network, x, y, kind="gradient", exact=True)
    weight, flat = network.fc.weight.detach().numpy(), x.ravel()
    p = torch.softmax(network(torch.from_numpy(x)), 1)[0].detach().numpy()
    by_x = (np.diag(p) - np.outer(p, p)) @ weight  # of p - e_y
    error = p - np.eye(10)[3]
    expected = by_x.T @ by_x
    for entry in range(4):
        for other in range(4):
            moved = np.outer(by_x[:, entry], flat) + np.outer(error, np.eye(4)[entry])
            beside = np.outer(by_x[:, other], flat) + np.outer(error, np.eye(4)[other])
            expected[entry, other] += np.sum(moved * beside)
    found = information(view, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert rank(found) == 4


def test_the_bias_alone_tells_no_more_than_there_are_classes():
    network = seeded(SmoothNet)
    known = {key: np.zeros(value.shape, bool) for key, value in network.state_dict().items()}
    known["fc.bias"][:] = True
    x, y = digits(1)
    view, _ = view_of(network, x, y, known=known)
    gram = information(view, x, y)
    assert rank(gram, 1e-13) == 9  # the ten sum to zero
    assert cramer_rao(gram, 0.1) == np.inf
    assert 0 < van_trees(gram, 0.1, 0.04) < 0.04
    assert van_trees(gram, 0.0, 0.04) == pytest.approx(0.04 * 55 / 64)


def test_bounds_on_a_linear_channel_are_its_variances():
    gram = np.diag([4.0, 1.0])  # y = 2 a + noise, b + noise
    assert cramer_rao(gram, 0.1) == pytest.approx((0.01 / 4 + 0.01) / 2)
    posterior = 1 / (400 + 1 / 0.5), 1 / (100 + 1 / 0.5)
    assert van_trees(gram, 0.1, 0.5) == pytest.approx(np.mean(posterior))
    assert van_trees(gram, 1e6, 0.5) == pytest.approx(0.5, rel=1e-6)
    assert van_trees(gram, 0.1, 0.5) < cramer_rao(gram, 0.1)
    assert van_trees(gram, 0.0, 0.5) == 0


def test_least_squares_on_a_linear_channel_reaches_the_bound():
    rng = np.random.default_rng(0)
    channel, truth = rng.standard_normal((12, 4)), rng.standard_normal(4)
    found = [
        np.linalg.lstsq(channel, channel @ truth + 0.3 * rng.standard_normal(12), rcond=None)[0]
        for _ in range(3000)
    ]
    assert np.mean((np.array(found) - truth) ** 2) == pytest.approx(
        cramer_rao(channel.T @ channel, 0.3), rel=0.1
    )


def test_decibels():
    assert psnr_of(0.01) == pytest.approx(20)
    assert psnr_of(0.01, span=10) == pytest.approx(40)
    assert psnr_of(0.0) == np.inf
    assert psnr_of(np.inf) == -np.inf


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cramer_rao(np.ones((2, 3)), 1.0), "square"),
        (lambda: cramer_rao(np.eye(2), -1.0), "sigma"),
        (lambda: van_trees(np.eye(2), 1.0, 0.0), "prior variance"),
    ],
)
def test_impossible_bounds_are_refused(call, named):
    with pytest.raises(ConfigError, match=named):
        call()


def test_pooled_networks_have_a_jacobian_too():
    x, y = digits(1)
    view, _ = view_of(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 10)
        ),
        x,
        y,
    )
    assert 20 < rank(information(view, x, y)) <= 64
