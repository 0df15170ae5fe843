"""Any k of n recover the answers of linear and affine functions; the stated condition number holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.codes.mds import MDS
from fedeff.codes.parity_search import KNOWN_THOUSANDTHS, find_parity, worst_condition
from fedeff.codes.patterns import count_patterns, erasure_patterns
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator


def affine(x: np.ndarray) -> np.ndarray:
    """A layer with a bias, computed in the dtype of its input."""
    rng = generator(1, purpose="layer")
    weights, bias = rng.standard_normal((x.shape[-1], 6)), rng.standard_normal(6)
    return x @ weights.astype(x.dtype) + bias.astype(x.dtype)


def worst_error(code: MDS, dtype: str, limit: int) -> float:
    """Over patterns, the largest error relative to the largest answer of the group."""
    rng = generator(2, purpose="groups")
    inputs = rng.standard_normal((code.k, 4, 20)).astype(dtype)
    truth = affine(inputs)
    outputs = np.concatenate([truth, affine(code.encode(inputs))])
    assert outputs.dtype == np.dtype(dtype)
    masks = erasure_patterns(code.k + code.r, code.r, limit=limit, rng=rng)
    worst = 0.0
    for mask in masks:
        came = np.where(mask[:, None, None], outputs, np.array(np.nan, dtype))
        values = code.decode(came, mask).values
        assert values.dtype == np.dtype(dtype)
        assert np.array_equal(values[mask[: code.k]], truth[mask[: code.k]])
        worst = max(worst, float(np.abs(values - truth).max() / np.abs(truth).max()))
    return worst


def test_every_pattern_of_up_to_five_of_fifteen_is_recovered_over_a_float32_wire():
    assert count_patterns(15, 5) == 4944
    assert worst_error(MDS(10, 5), "f4", 4944) < 1e-4


@given(k=st.integers(1, 6), r=st.integers(0, 3), seed=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_any_k_of_n_recover_an_affine_function(k, r, seed):
    code = MDS(k, r, seed)
    assert worst_error(code, "f8", 130) < 1e-14 * max(10.0, code.worst_condition)
    assert not code.decodable(np.arange(k + r) > r)
    with pytest.raises(CodeError, match="cannot decode"):
        code.decode(np.zeros(k + r), np.arange(k + r) > r)


@pytest.mark.parametrize(("k", "r"), sorted(KNOWN_THOUSANDTHS))
def test_known_matrices_are_better_than_a_search_and_sum_to_one(k, r):
    known = find_parity(k, r, 0)
    assert known.shape == (r, k)
    assert np.array(KNOWN_THOUSANDTHS[k, r]).sum(axis=1).tolist() == [1000] * r
    if k < 10:  # where a search takes seconds
        assert worst_condition(known) <= worst_condition(find_parity(k, r, 1))


@pytest.mark.parametrize(("k", "r", "stated"), [(4, 2, 7), (10, 2, 33.1), (10, 5, 1752)])
def test_the_stated_condition_numbers_hold_over_every_pattern(k, r, stated):
    generating = np.vstack([np.eye(k), MDS(k, r).parity])
    masks = erasure_patterns(k + r, r, limit=3003, rng=generator(0, purpose="all"), fewest=r)
    naive = max(np.linalg.cond(generating[mask]) for mask in masks)
    assert MDS(k, r).worst_condition == pytest.approx(naive, rel=1e-6)
    assert naive <= stated


def test_a_mean_is_the_parity_of_one_and_sums_are_hand_computed():
    assert MDS(4, 1).encode(np.array([1.0, 2.0, 3.0, 6.0])).tolist() == [3.0]
    mask = np.array([True, True, True, False, True])
    decoded = MDS(4, 1).decode(np.array([1.0, 2.0, 3.0, np.nan, 3.0]), mask)
    assert decoded.values.tolist() == pytest.approx([1.0, 2.0, 3.0, 6.0])
    assert decoded.quality.tolist() == [1.0] * 4


def test_nothing_missing_is_the_identity_bit_for_bit_and_a_copy():
    outputs = generator(3, purpose="outputs").standard_normal((15, 28, 28)).astype("f4")
    decoded = MDS(10, 5).decode(outputs, np.ones(15, bool)).values
    assert decoded.tobytes() == outputs[:10].tobytes()
    assert not np.shares_memory(decoded, outputs)


def test_equal_codes_share_one_read_only_matrix_and_seeds_differ():
    assert MDS(5, 4, 1).parity is MDS(5, 4, 1).parity
    assert not np.array_equal(MDS(5, 4, 1).parity, MDS(5, 4, 2).parity)
    assert not MDS(5, 4, 1).parity.flags.writeable
    assert MDS(5, 4, 1) == MDS(5, 4, 1)


def test_empty_arrays_pass_and_whole_numbers_are_refused():
    assert MDS(2, 1).encode(np.zeros((2, 0, 3))).shape == (1, 0, 3)
    with pytest.raises(CodeError, match="of int64, expected floats"):
        MDS(2, 1).encode(np.ones((2, 3), np.int64))
    with pytest.raises(ConfigError, match="MDS: r is -1"):
        MDS(2, -1)
