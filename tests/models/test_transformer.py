"""The transformer against torch's own layers, and what of it may go."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models import apply, build, what_can_go
from fedeff.models.transformer import Transformer


def small() -> Transformer:
    torch.manual_seed(4)
    return Transformer(11, 7, width=12, layers=2, heads=3).double()


def torchs_own(model: Transformer) -> nn.TransformerEncoder:
    """Torch's pre-norm layers with the same weights."""
    layer = nn.TransformerEncoderLayer(
        12, 3, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    own = nn.TransformerEncoder(layer, 2, norm=copy.deepcopy(model.norm), enable_nested_tensor=False)
    state = model.state_dict()
    for place, reference in enumerate(own.layers):
        at = f"layers.{place}"
        joint = {
            f"self_attn.in_proj_{kind}": torch.cat(
                [
                    state.get(f"{at}.attention.{part}.{kind}", torch.zeros(12, dtype=torch.float64))
                    for part in ("query", "key", "value")
                ]
            )
            for kind in ("weight", "bias")
        }
        parts = {
            "self_attn.out_proj": "attention.out",
            "norm1": "attention.norm",
            "norm2": "dense.norm",
            "linear1": "dense.up",
            "linear2": "dense.down",
        }
        single = {
            f"{theirs}.{kind}": state[f"{at}.{ours}.{kind}"]
            for theirs, ours in parts.items()
            for kind in ("weight", "bias")
        }
        reference.load_state_dict(joint | single)
    return own


def test_it_is_torchs_pre_norm_transformer() -> None:
    model, tokens = small(), torch.from_numpy(np.random.default_rng(0).integers(0, 11, (3, 5)))
    x = model.tokens(tokens) + model.positions.weight[:5]
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    reference = model.head(torchs_own(model)(x, mask=mask, is_causal=True))
    torch.testing.assert_close(model(tokens), reference, rtol=0, atol=1e-12)


def test_it_can_be_differentiated_twice() -> None:
    """The attacks of the audit differentiate gradients."""
    model, tokens = small(), torch.arange(5)[None]
    value = model.get_parameter("layers.0.attention.value.weight")
    first = torch.autograd.grad(model(tokens).square().sum(), value, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), model.tokens.weight)[0]
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize(
    ("part", "last"), [("layers.0.attention", "out"), ("layers.1.dense", "down"), ("layers.0.dense", "down")]
)
def test_a_part_that_adds_nothing_goes(part: str, last: str) -> None:
    model, tokens = small(), torch.arange(7)[None]
    with torch.no_grad():
        for parameter in model.get_submodule(f"{part}.{last}").parameters():
            parameter.zero_()
    change = what_can_go(model)
    assert change.bypassed == (part,)
    less = apply(change, model)
    assert not any(key.startswith(f"{part}.") for key in less.state_dict())
    torch.testing.assert_close(less(tokens), model(tokens), rtol=0, atol=1e-12)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="12 wide got 5 heads"):
        Transformer(11, 7, width=12, heads=5)
    with pytest.raises(ConfigError, match="7 positions got 8 tokens"):
        small()(torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ConfigError, match="at least 1"):
        build("transformer", input_shape=(0,))
