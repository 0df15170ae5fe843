import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.codes.learned.erasures import missing_patterns
from fedeff.core.errors import ConfigError


def naive(k, r):
    """Every mask with one to r missing, an original among them."""
    masks = (np.array(bits) for bits in itertools.product([False, True], repeat=k + r))
    return {tuple(mask) for mask in masks if (~mask).sum() <= r and not mask[:k].all()}


@given(k=st.integers(1, 4), r=st.integers(1, 4), limit=st.integers(1, 200), seed=st.integers(0, 99))
def test_patterns_are_different_ones_of_those_there_are(k, r, limit, seed):
    masks = missing_patterns(k, r, limit=limit, rng=np.random.default_rng(seed))
    found = set(map(tuple, masks.tolist()))
    assert len(found) == len(masks) == min(limit, len(naive(k, r)))
    assert found <= naive(k, r)


def test_a_sample_holds_every_kind_of_pattern():
    k, r = 10, 5
    masks = missing_patterns(k, r, limit=32, rng=np.random.default_rng(0))
    kinds = {((~mask[:k]).sum(), (~mask[k:]).sum()) for mask in masks}
    assert kinds == {(lost, late) for lost in range(1, 6) for late in range(6 - lost)}
    assert len(masks) == 32 < sum(math.comb(15, missing) for missing in range(1, 6))


def test_equal_seeds_give_equal_patterns_and_others_differ():
    one, same, other = (missing_patterns(10, 5, limit=32, rng=np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_no_pattern_at_all_is_refused():
    with pytest.raises(ConfigError, match="limit of 1 or more"):
        missing_patterns(2, 1, limit=0, rng=np.random.default_rng(0))
