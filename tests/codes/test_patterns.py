"""Erasure patterns: every one where they are few, else a uniform sample, never one twice."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.codes.patterns import count_patterns, erasure_patterns
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator


def rng(seed: int = 0) -> np.random.Generator:
    return generator(seed, purpose="patterns")


@given(n=st.integers(1, 7), data=st.data())
def test_few_patterns_are_all_of_them_with_fewer_missing_first(n, data):
    r = data.draw(st.integers(0, n))
    fewest = data.draw(st.integers(0, r))
    masks = erasure_patterns(n, r, limit=128, rng=rng(), fewest=fewest)
    naive = {m for m in itertools.product([False, True], repeat=n) if fewest <= m.count(False) <= r}
    assert len(masks) == len(naive) == count_patterns(n, r, fewest=fewest)
    assert set(map(tuple, masks.tolist())) == naive
    assert (np.diff((~masks).sum(axis=1)) >= 0).all()


@given(n=st.integers(3, 40), limit=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_many_patterns_are_as_many_as_asked_for_and_never_the_same_twice(n, limit, seed):
    r = n // 2
    masks = erasure_patterns(n, r, limit=limit, rng=rng(seed))
    assert masks.shape == (min(limit, count_patterns(n, r)), n)
    assert masks.dtype == np.bool_
    assert len(np.unique(masks, axis=0)) == len(masks)
    missing = (~masks).sum(axis=1)
    assert missing.max() <= r
    assert (np.diff(missing) >= 0).all()
    assert np.array_equal(masks, erasure_patterns(n, r, limit=limit, rng=rng(seed)))


def test_a_sample_is_uniform_over_patterns():
    drawn = rng(3)
    seen = Counter(m.tobytes() for _ in range(600) for m in erasure_patterns(6, 2, limit=11, rng=drawn))
    counts = np.array(list(seen.values()))
    assert len(counts) == 22
    assert abs(counts - 300).max() < 5 * np.sqrt(300 * 0.5)


def test_a_sample_of_huge_sets_is_quick_and_mostly_of_the_largest_kind():
    masks = erasure_patterns(200, 100, limit=50, rng=rng())
    assert (~masks).sum(axis=1).min() > 80


def test_a_generator_is_left_alone_where_nothing_is_drawn():
    drawn = rng(1)
    erasure_patterns(15, 5, limit=4944, rng=drawn)
    assert drawn.random() == rng(1).random()


@pytest.mark.parametrize(("n", "r", "fewest"), [(3, 4, 0), (3, 1, 2), (3, 1, -1)])
def test_impossible_numbers_are_refused(n, r, fewest):
    with pytest.raises(ConfigError, match="expected 0 <= fewest <= r <= n"):
        erasure_patterns(n, r, limit=9, rng=rng(), fewest=fewest)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="limit of 1 or more"):
        erasure_patterns(3, 1, limit=0, rng=rng())
