"""Many groups at once: what each gets alone."""

import numpy as np
import pytest
from torch import nn

from fedeff.codes.berrut import Berrut
from fedeff.codes.code import CodesGroups, decode_groups, encode_groups
from fedeff.codes.learned import LearnedCode, PackedCode, ParityModel, ResidualCode, fit
from fedeff.core.errors import CodeError
from fedeff.core.rng import generator

K, R, CLASSES = 3, 2, 4
RECIPES = (PackedCode(K, R), ResidualCode(K, R), ParityModel(K, R), LearnedCode(K, R))


def function() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_trained_code_gives_each_group_what_it_gets_alone(recipe):
    rng = generator(3, purpose="groups")
    code = fit(recipe, function(), rng.random((60, 1, 8, 8), np.float32), steps=2, seed=1)
    assert isinstance(code, CodesGroups)
    inputs = rng.random((7, K, 1, 8, 8), np.float32)
    alone = np.stack([code.encode(group) for group in inputs])
    np.testing.assert_allclose(encode_groups(code, inputs), alone, rtol=1e-5, atol=1e-6)
    outputs = rng.random((7, K + R, CLASSES), np.float32)
    for mask in (np.array([1, 0, 1, 1, 0], bool), np.array([1, 1, 1, 0, 0], bool)):
        alone = np.stack([code.decode(group, mask).values for group in outputs])
        np.testing.assert_allclose(decode_groups(code, outputs, mask), alone, rtol=1e-5, atol=1e-6)


def test_a_code_that_knows_one_group_only_is_asked_group_by_group():
    code, rng = Berrut(K, R), generator(4, purpose="groups")
    outputs, mask = rng.random((5, K + R, CLASSES)), np.array([1, 0, 1, 1, 1], bool)
    assert not isinstance(code, CodesGroups)
    expected = np.stack([code.decode(group, mask).values for group in outputs])
    assert np.array_equal(decode_groups(code, outputs, mask), expected)


def test_groups_of_another_shape_are_refused():
    rng = generator(5, purpose="groups")
    code = fit(PackedCode(K, R), function(), rng.random((60, 1, 8, 8), np.float32), steps=1, seed=1)
    with pytest.raises(CodeError, match=r"inputs \(2, 1, 8, 8\) .*expected \(3, 1, 8, 8\)"):
        code.encode_groups(rng.random((5, 2, 1, 8, 8), np.float32))
    with pytest.raises(CodeError, match="outputs"):
        code.decode_groups(rng.random((5, K, CLASSES), np.float32), np.ones(K + R, bool))
