"""Stochastic rounding: right in the mean, exact on its levels, the same from any bit generator."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.compression.floats import CHUNK
from fedeff.compression.rounding import digits_to_values, levels_between, stochastic_digits


def rounded(flat, centre, half, top, rng, **options):
    digits = stochastic_digits(flat, centre, half, top, rng, **options)
    return digits_to_values(digits, levels_between(centre, half, top, flat.dtype))


@given(
    top=st.integers(1, 255),
    seed=st.integers(0, 2**32 - 1),
    centre=st.floats(-10, 10, width=32),
    half=st.floats(0.125, 100, width=32),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_value_goes_to_one_of_the_two_levels_around_it(top, seed, centre, half, dtype):
    rng = np.random.default_rng(seed)
    flat = rng.uniform(centre - half, centre + half, 100).astype(dtype)
    found = rounded(flat, centre, half, top, rng).astype(np.float64)
    step = 2 * half / top
    assert np.all(np.abs(found - flat) < step * (1 + 1e-5) + 1e-5)
    assert np.all(found >= centre - half - 1e-5)
    assert np.all(found <= centre + half + 1e-5)


@pytest.mark.parametrize("top", [1, 2, 3, 4, 15, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_on_a_level_stays_there(top, dtype):
    levels = np.arange(top + 1) * 2.0 - top  # exact, like all that is computed from them
    flat = np.tile(levels, 3000).astype(dtype)
    found = rounded(flat, 0.0, float(top), top, np.random.default_rng(0))
    assert np.allclose(found, flat, rtol=1e-9)


@pytest.mark.parametrize("top", [2, 7, 255])
def test_the_mean_is_the_value(top):
    """By the sum over all values too, where a bias of every value would add up."""
    rng = np.random.default_rng(3)
    values = rng.uniform(-1, 1, 50)
    draws = 20_000
    means = (
        rounded(np.tile(values, draws).astype(np.float32), 0.0, 1.0, top, rng)
        .reshape(draws, -1)
        .mean(0, float)
    )
    step = 2 / top
    below = (values + 1) % step
    deviations = np.sqrt(below * (step - below) / draws)
    assert np.all(np.abs(means - values) < 5.5 * deviations + 1e-6)
    assert abs((means - values).sum()) < 5 * math.sqrt((deviations**2).sum())


def test_a_tiny_value_is_not_lost():
    """At 2^-18 of the range, below what sixteen bits tell apart."""
    share, draws = 2.0**-18, 1 << 24
    digits = stochastic_digits(np.full(draws, share, np.float32), 0.0, 1.0, 2, np.random.default_rng(1))
    assert abs(np.count_nonzero(digits == 2) / (share * draws) - 1) < 5 / math.sqrt(share * draws)


def test_values_beyond_the_limit_count_as_the_limit():
    flat = np.full(100_000, 9, np.float32)
    found = rounded(flat, 0.0, 2.0, 2, np.random.default_rng(0), limit=0.5)
    assert set(found) == {0, 2}
    assert abs(found.mean() - 0.5) < 0.02


def test_no_range_is_the_middle_digit():
    assert list(stochastic_digits(np.zeros(3, np.float32), 0.0, 0.0, 2, np.random.default_rng(0))) == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("size", [1, 3, CHUNK - 1, CHUNK, CHUNK + 1])
def test_draws_do_not_depend_on_how_they_were_asked_for(size):
    """PCG64 has a short cut to its words; other generators give the words a range of integers gives."""

    class NotPcg:
        def __init__(self):
            self.bit_generator, self._rng = object(), np.random.default_rng(5)

        def integers(self, *arguments, **options):
            return self._rng.integers(*arguments, **options)

    flat = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    one = stochastic_digits(flat, 0.0, 3.0, 2, np.random.default_rng(5))
    other = stochastic_digits(flat, 0.0, 3.0, 2, NotPcg())
    assert np.array_equal(one, other)


@pytest.mark.parametrize("top", [1, 2, 254, 255])
def test_the_widest_range_has_finite_levels(top):
    for dtype in (np.float16, np.float32, np.float64):
        largest = float(np.finfo(dtype).max)
        levels = levels_between(0.0, largest, top, np.dtype(dtype))
        assert np.isfinite(levels).all()
        assert levels[0] == -levels[-1] == -largest
