"""Laws of the networks before and apart from training."""

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.codes.learned.erasures import missing_patterns
from fedeff.codes.learned.network import Batch, Shapes
from fedeff.codes.learned.packed import PackedNetwork, affordable_width
from fedeff.codes.learned.parity_model import tiled
from fedeff.codes.learned.recipes import LearnedCode, PackedCode, ParityModel, ResidualCode
from fedeff.core.errors import CodeError, ConfigError

RECIPES = [
    LearnedCode(2, 1),
    LearnedCode(3, 2, "conv", "kl"),
    ParityModel(2, 1),
    ParityModel(4, 2, "concat"),
    ResidualCode(3, 2),
    ResidualCode(2, 2, "own"),
    PackedCode(3, 2, width=8),
]
SHAPES = Shapes((1, 6, 6), (4,))


def every_mask(k, r):
    return torch.from_numpy(missing_patterns(k, r, limit=10**4, rng=np.random.default_rng(0)))


@pytest.mark.parametrize(("k", "r"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_before_training_the_residual_code_is_exact_for_affine_functions(k, r, affine, samples):
    network = ResidualCode(k, r).network(SHAPES, None)
    inputs, masks = samples[: 5 * k].unflatten(0, (5, k)), every_mask(k, r)
    outputs = network.outputs(inputs, affine)
    with torch.no_grad():
        estimates = network.decode(outputs, masks)
    assert torch.allclose(estimates, outputs[:, :k].expand_as(estimates), atol=1e-4)


@pytest.mark.parametrize("recipe", [ParityModel(3, 1), ParityModel(3, 2)])
def test_subtraction_is_exact_where_parity_models_are(recipe, affine, samples):
    """The right parity model of an affine function with a sum of weights one is that function."""
    network = recipe.network(SHAPES, affine)
    network.parity_models = nn.ModuleList([_Scaled(affine, recipe)] * recipe.r)
    outputs = network.outputs(samples[:15].unflatten(0, (5, 3)), affine)
    with torch.no_grad():
        estimates = network.decode(outputs, every_mask(3, recipe.r))
    assert torch.allclose(estimates, outputs[:, :3].expand_as(estimates), atol=1e-3)


class _Scaled(nn.Module):
    """The weighted sum of affine answers from the weighted sum of inputs, of weights that sum to `total`."""

    def __init__(self, affine, recipe):
        super().__init__()
        self.affine, self.total = affine, 3 if recipe.r == 1 else 1

    def forward(self, x):
        return self.affine(x / self.total) * self.total


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_what_is_erased_is_not_read(recipe, function, samples):
    network = recipe.network(SHAPES, function.eval())
    n = recipe.k + recipe.r
    outputs = torch.randn(6, n, 4, generator=torch.Generator().manual_seed(2))
    masks = every_mask(recipe.k, recipe.r)
    with torch.no_grad():
        before = network.decode(outputs, masks)
        for i, mask in enumerate(masks):
            changed = torch.where(mask[None, :, None], outputs, outputs + 7)
            assert torch.equal(network.decode(changed, masks)[i], before[i])


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_shapes_and_gradients(recipe, function, samples):
    network = recipe.network(SHAPES, function.eval().requires_grad_(False))
    network.prepare(samples)
    inputs = samples[: 4 * recipe.k].unflatten(0, (4, recipe.k))
    answers = function(inputs.flatten(0, 1)).unflatten(0, (4, recipe.k))
    batch = Batch(inputs, answers, answers.argmax(-1))
    assert network.encode(inputs).shape == (4, recipe.r, 1, 6, 6)
    assert network.answer(network.encode(inputs), function).shape == (4, recipe.r, 4)
    loss = network.loss(batch, function, every_mask(recipe.k, recipe.r))
    loss.backward()
    assert loss.ndim == 0
    assert loss.item() > 0
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert float(network.default_loss(batch)) > 0


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
def test_the_published_encoder_sees_channels_apart(encoder):
    network = LearnedCode(2, 2, encoder).network(Shapes((3, 5, 5), (4,)), None)
    inputs = torch.randn(4, 2, 3, 5, 5)
    changed = inputs.clone()
    changed[:, :, 1] += 1
    with torch.no_grad():
        before, after = network.encode(inputs), network.encode(changed)
        swapped = network.encode(inputs.flip(2))
    assert before.shape == (4, 2, 3, 5, 5)
    assert torch.allclose(before[:, :, [0, 2]], after[:, :, [0, 2]], atol=1e-6)
    assert not torch.allclose(before[:, :, 1], after[:, :, 1])
    assert torch.allclose(swapped, before.flip(2), atol=1e-6)


def test_the_published_networks_have_the_published_sizes():
    """k = 2, r = 1, 28 x 28: kd -> kd -> rd, and (k+r)c -> (k+r)c -> kc -> kc."""
    network = LearnedCode(2, 1).network(Shapes((1, 28, 28), (10,)), None)
    weights = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert weights == [(1568, 1568), (784, 1568), (30, 30), (20, 30), (20, 20)]
    conv = LearnedCode(2, 1, "conv").network(Shapes((1, 28, 28), (10,)), None)
    kernels = [tuple(p.shape) for p in conv.parameters() if p.ndim == 4]
    assert kernels == [(40, 2, 3, 3), *[(40, 40, 3, 3)] * 5, (1, 40, 1, 1)]


def test_tiles_are_means_in_row_order():
    images = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 1, 4, 4)
    assert tiled(images)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    two = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).view(1, 1, 1, 2, 2).expand(1, 2, 1, 2, 2)
    assert tiled(two)[0, 0].tolist() == [[3, 5], [3, 5]]


def test_ten_tiles_leave_an_empty_rest():
    image = tiled(torch.ones(1, 10, 1, 28, 28))[0, 0]
    assert image.shape == (28, 28)
    assert image.sum() == 10 * 7 * 9


def test_features_begin_as_principal_components(samples):
    """Two of the samples' directions hold everything: one feature an input is the larger, two are all."""
    rng = torch.Generator().manual_seed(0)
    plane = torch.randn(200, 2, generator=rng) * torch.tensor([5.0, 1.0])
    axes = torch.linalg.qr(torch.randn(8, 8, generator=rng))[0]
    flat = plane @ axes[:2] + 3
    network = PackedNetwork(4, 1, Shapes((8,), (4,)), 8)
    network.prepare(flat)
    features = network.encode(flat.view(50, 4, 8)).view(50, 4, 2).flatten(0, 1).detach()
    centred = plane - plane.mean(0)
    assert abs(float(torch.corrcoef(torch.stack([features[:, 0], centred[:, 0]]))[0, 1])) > 0.99
    assert abs(float(torch.corrcoef(torch.stack([features[:, 1], centred[:, 1]]))[0, 1])) > 0.99


def test_of_packed_answers_only_parities_matter_and_their_mean_counts(function):
    network = PackedCode(2, 2, width=8).network(SHAPES, None)
    outputs = torch.randint(0, 2**24, (3, 4, 4)).float()
    masks = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    one, other, both = network.decode(outputs, masks)
    assert torch.allclose(both, (one + other) / 2, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 10])
def test_a_parity_model_costs_no_more_than_the_function(k):
    shapes, budget = Shapes((784,), (10,)), 1_080_000
    width = affordable_width(budget, k, shapes)
    assert k * (784 // k * width + width**2 + 10 * width) <= budget
    wider = width + 8
    assert width == 512 or k * (784 // k * wider + wider**2 + 10 * wider) > budget


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: LearnedCode(0, 1), "k is 0"),
        (lambda: LearnedCode(2, 0), "r is 0"),
        (lambda: LearnedCode(2, 1, "cnv"), "did you mean 'conv'"),
        (lambda: LearnedCode(2, 1, loss="mae"), "did you mean 'mse'"),
        (lambda: ParityModel(2, 1, "some"), "did you mean 'sum'"),
        (lambda: ResidualCode(2, 1, "mine"), "Known: own, same"),
        (lambda: PackedCode(2, 1, width=-1), "width is -1"),
        (lambda: PackedCode(25, 1), "at most 24"),
        (lambda: LearnedCode(2, 1, "conv").network(Shapes((7,), (4,)), None), "reads images"),
        (lambda: ParityModel(2, 1, "concat").network(Shapes((7,), (4,)), nn.Identity()), "take 'sum'"),
        (lambda: PackedCode(9, 1, 8).network(Shapes((7,), (4,)), None), "7 numbers, expected 9"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        make()
    assert "\n" not in str(error.value)


def test_architectures_that_are_the_functions_need_it():
    for recipe in (ParityModel(2, 1), ResidualCode(2, 1, "own")):
        with pytest.raises(CodeError, match="give the function"):
            recipe.network(SHAPES, None)
