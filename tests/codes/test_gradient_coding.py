"""Gradient codes: exact for every pattern of at most s, least squares beyond."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.codes.gradient_coding import GradientCode, cyclic, fractional_repetition
from fedeff.codes.patterns import erasure_patterns
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator

CYCLIC = [cyclic(n, s) for n in range(1, 9) for s in range(n)]
LARGE = [cyclic(10, 4), cyclic(10, 5), cyclic(15, 4), cyclic(15, 5), cyclic(20, 6)]
REPEATED = [fractional_repetition(n, s) for n, s in ((1, 0), (4, 1), (6, 2), (6, 1), (8, 3), (5, 4), (12, 3))]


def named(code: GradientCode) -> str:
    return f"{code.n}-{code.s}"


@pytest.mark.parametrize("code", CYCLIC + LARGE + REPEATED, ids=named)
def test_every_pattern_of_at_most_s_is_exact(code):
    for mask in erasure_patterns(code.n, code.s, limit=400, rng=generator(0, purpose="masks")):
        weights, residual = code.decode_weights(mask)
        assert np.abs(weights @ code.matrix - 1).max() < 1e-8
        assert residual < 1e-8
        assert not weights[~mask].any()


@pytest.mark.slow
@pytest.mark.parametrize("code", [cyclic(15, 5), cyclic(14, 4)], ids=named)
def test_every_pattern_of_large_codes_is_exact(code):
    masks = erasure_patterns(code.n, code.s, limit=5000, rng=generator(0, purpose="masks"))
    assert max(code.decode_weights(mask)[1] for mask in masks) < 1e-11


@pytest.mark.parametrize("code", CYCLIC + LARGE, ids=named)
def test_cyclic_workers_hold_the_next_parts(code):
    for worker, parts in enumerate(code.parts):
        assert set(parts) == {(worker + i) % code.n for i in range(code.s + 1)}
    assert np.linalg.norm(code.matrix, axis=1) == pytest.approx(np.ones(code.n))


@pytest.mark.parametrize(("n", "s", "stated"), [(10, 5, 45), (10, 4, 175), (15, 5, 2000)])
def test_amplification_is_as_stated(n, s, stated):
    masks = erasure_patterns(n, s, limit=500, rng=generator(0, purpose="masks"))
    assert max(np.linalg.norm(cyclic(n, s).decode_weights(mask)[0]) for mask in masks) < stated


def test_fractional_repetition_is_averages_of_blocks():
    code = fractional_repetition(4, 1)
    assert code.parts == ((0, 1), (2, 3), (0, 1), (2, 3))
    weights, residual = code.decode_weights(np.array([True, True, True, False]))
    assert weights == pytest.approx([0.5, 1, 0.5, 0])
    assert residual == pytest.approx(0, abs=1e-12)


def test_the_residual_of_lost_blocks_is_the_root_of_the_parts_lost():
    weights, residual = fractional_repetition(6, 2).decode_weights(np.array([1, 0, 1, 0, 1, 0], bool))
    assert weights == pytest.approx([1 / 3, 0] * 3)
    assert residual == pytest.approx(3**0.5)


@given(n=st.integers(2, 8), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_beyond_s_no_other_weights_are_closer_and_the_gradient_is_within_the_bound(n, seed, data):
    code = cyclic(n, data.draw(st.integers(0, n - 1)))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    rng = generator(seed, purpose="gradients")
    weights, residual = code.decode_weights(mask)
    other = np.where(mask, weights + rng.standard_normal(n) * 0.1, 0)
    assert residual <= np.linalg.norm(other @ code.matrix - 1) + 1e-9
    gradients = rng.standard_normal((n, 5))
    wrong = weights @ (code.matrix @ gradients) - gradients.sum(axis=0)
    assert np.linalg.norm(wrong) <= residual * np.linalg.norm(gradients) + 1e-7


def test_nothing_here_is_nothing_known():
    weights, residual = cyclic(4, 1).decode_weights(np.zeros(4, bool))
    assert weights.tolist() == [0] * 4
    assert residual == 2


def test_impossible_codes_are_refused():
    with pytest.raises(ConfigError, match=r"s \+ 1 = 3 does not divide n = 4; take `cyclic`"):
        fractional_repetition(4, 2)
    for n, s in ((3, -1), (0, 0), (3.0, 1)):
        with pytest.raises(ConfigError, match="expected a whole number from"):
            cyclic(n, s)
    with pytest.raises(ConfigError, match="s is 3, expected less than n = 3"):
        cyclic(3, 3)
    with pytest.raises(ConfigError, match=r"matrix \(2, 2\), expected \(3, 3\)"):
        GradientCode(3, 1, np.eye(2))
    with pytest.raises(CodeError, match=r"expected \(3,\) booleans"):
        cyclic(3, 1).decode_weights(np.ones(3))
