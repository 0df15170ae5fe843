"""Copies give back what was computed, bit for bit, whenever one of each input came."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.codes.patterns import erasure_patterns
from fedeff.codes.replication import Replication
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator


@given(k=st.integers(1, 4), r=st.integers(0, 5), dtype=st.sampled_from(["f4", "f8", "i8", "u1", "?"]))
@settings(max_examples=25)
def test_every_pattern_is_exact_or_refused(k, r, dtype):
    code, rng = Replication(k, r), generator(k, purpose="replication")
    inputs = rng.integers(0, 200, (k, 2, 3)).astype(dtype)
    parities = code.encode(inputs)
    assert parities.shape == (r, 2, 3)
    answers = np.concatenate([inputs, parities])
    for mask in erasure_patterns(k + r, k + r, limit=100, rng=rng):
        holders = [any(mask[i] for i in range(j, k + r, k)) for j in range(k)]
        assert code.decodable(mask) == all(holders)
        outputs = np.where(mask[:, None, None], answers, np.array(77, dtype))
        if all(holders):
            decoded = code.decode(outputs, mask)
            assert decoded.values.dtype == np.dtype(dtype)
            assert np.array_equal(decoded.values, inputs)
            assert decoded.quality.tolist() == [1.0] * k
        else:
            with pytest.raises(CodeError, match="cannot decode without"):
                code.decode(outputs, mask)


def test_an_own_answer_goes_before_a_copy():
    outputs, mask = np.array([1.0, 2.0, 10.0, 20.0]), np.array([True, False, True, True])
    assert Replication(2, 2).decode(outputs, mask).values.tolist() == [1.0, 20.0]


def test_wrong_shapes_and_sizes_are_refused():
    code = Replication(2, 1)
    with pytest.raises(CodeError, match="a group of this code is 2"):
        code.encode(np.ones((3, 1)))
    with pytest.raises(CodeError, match="one for each worker"):
        code.decode(np.ones((2, 1)), np.ones(3, bool))
    with pytest.raises(CodeError, match=r"expected \(3,\) booleans"):
        code.decode(np.ones((3, 1)), np.ones(3))
    for k, r in ((0, 1), (2, -1), (2.0, 1)):
        with pytest.raises(ConfigError, match="expected a whole number from"):
            Replication(k, r)
