import math

import pytest
import torch
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import ModelCard, build, describe, model_names
from fedeff.models.recurrent import Gru, Lstm

PARAMETERS = {
    "cnn": 46_730,
    "mlp": 50_890,
    "logistic": 7_850,
    "resnet20": 269_722,
    "resnet20-small": 67_906,
    "gru": 69_114,
    "lstm": 87_802,
    "transformer": 298_330,
}
CNN_STATE = {
    "conv1.weight": (16, 1, 5, 5),
    "conv1.bias": (16,),
    "conv2.weight": (32, 16, 5, 5),
    "conv2.bias": (32,),
    "fc1.weight": (64, 512),
    "fc1.bias": (64,),
    "fc2.weight": (10, 64),
    "fc2.bias": (10,),
}


def card_model(name: str, seed: int = 0) -> tuple[ModelCard, nn.Module]:
    card = describe(name)
    return card, build(name, classes=card.classes, input_shape=card.input_shape, seed=seed)


@pytest.mark.parametrize("name", model_names())
def test_a_card_tells_the_parameters_that_the_model_has(name: str) -> None:
    card, model = card_model(name)
    assert card.parameters == sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", model_names())
def test_output_shapes(name: str) -> None:
    card, model = card_model(name)
    if card.task == "classify":
        assert model(torch.rand(3, *card.input_shape)).shape == (3, card.classes)
    else:
        tokens = torch.randint(card.classes, (3, *card.input_shape))
        assert model(tokens).shape == (3, *card.input_shape, card.classes)


def test_the_cnn_has_the_layers_of_the_benchmarks() -> None:
    assert {key: tuple(value.shape) for key, value in build("cnn").state_dict().items()} == CNN_STATE


def test_the_cnn_rectifies_what_it_would_have_pooled() -> None:
    """Pooling and rectifying commute, gradients included."""
    model, x = build("cnn"), torch.rand(4, 1, 28, 28)
    conv1, conv2, fc1, fc2 = model.children()
    reference = fc2(fc1(nn.MaxPool2d(2)(conv2(nn.MaxPool2d(2)(conv1(x).relu())).relu()).flatten(1)).relu())
    parameters = list(model.parameters())
    torch.testing.assert_close(model(x), reference)
    torch.testing.assert_close(
        torch.autograd.grad(model(x).square().sum(), parameters),
        torch.autograd.grad(reference.square().sum(), parameters),
    )


@pytest.mark.parametrize("name", ["cnn", "mlp", "logistic", "resnet20", "resnet20-small"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 20, 33), (2, 4, 4)])
def test_image_models_read_any_image_shape(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, classes=7, input_shape=shape)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert describe(name, classes=7, input_shape=shape).parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_the_residual_stages_halve_the_image_twice() -> None:
    """The paper's feature maps: 32x32 of 16, 16x16 of 32, 8x8 of 64."""
    model, shapes = build("resnet20", input_shape=(3, 32, 32)), []
    x = torch.relu(model.norm(model.conv(torch.rand(2, 3, 32, 32))))
    for block in model.stages:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


@pytest.mark.parametrize(("own", "reference"), [(Gru, nn.GRU), (Lstm, nn.LSTM)])
def test_an_unrolled_layer_equals_torchs_own(
    own: type[Gru | Lstm], reference: type[nn.GRU | nn.LSTM]
) -> None:
    layer, x = own(5, 7), torch.rand(3, 11, 5)
    torch_layer = reference(5, 7, batch_first=True)
    torch_layer.load_state_dict(layer.state_dict())
    weights = {name: values + 0 for name, values in layer.named_parameters()}
    for fused in (False, True):
        torch.testing.assert_close(layer.states(x, weights, fused=fused), torch_layer(x)[0])
    torch.testing.assert_close(layer(x), torch_layer(x)[0])


@pytest.mark.parametrize("name", ["gru", "lstm", "transformer"])
def test_character_models_look_only_backwards(name: str) -> None:
    _, model = card_model(name)
    tokens = torch.randint(90, (1, 20))
    changed = tokens.clone()
    changed[0, 12] = (tokens[0, 12] + 1) % 90
    same = (model(tokens) == model(changed)).all(dim=2)[0]
    assert same[:12].all()
    assert not same[12]


@pytest.mark.parametrize("name", model_names())
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        nn.utils.parameters_to_vector(card_model(name, seed)[1].parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_untrained_model_knows_nothing() -> None:
    """Initial logits are near zero on average: the loss is near log(classes)."""
    for name in ("cnn", "mlp", "logistic", "resnet20", "resnet20-small"):
        card, model = card_model(name)
        loss = nn.functional.cross_entropy(model(torch.rand(64, *card.input_shape)), torch.arange(64) % 10)
        assert abs(loss.item() - math.log(10)) < 0.7, name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cn", {}, "did you mean 'cnn'"),
        ("cnn", {"input_shape": (80,)}, r"reads \(channels, height, width\)"),
        ("resnet20", {"input_shape": (28, 28)}, r"reads \(channels, height, width\)"),
        ("cnn", {"input_shape": (1, 3, 28)}, "at least 4x4"),
        ("mlp", {"input_shape": (1, 0, 28)}, "every dimension"),
        ("mlp", {"classes": 1}, "at least 2"),
        ("transformer", {"input_shape": (1, 28)}, r"reads \(length,\)"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, settings: dict[str, object], message: str) -> None:
    for make in (build, describe):
        with pytest.raises(ConfigError, match=message):
            make(name, **settings)
