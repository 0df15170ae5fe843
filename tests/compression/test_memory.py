"""Codecs that remember: nothing is lost, both ends agree, memories are values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedeff.compression import EF21, ErrorFeedback, RandomK, TopK, codec_of
from fedeff.errors import CodecError, ConfigError

SELECTING = ["top_k(0.1)", "top_k(1)", "random_k(0.3, unbiased=False)"]
QUANTISING = [
    "sign", "tern_grad(1)", "uniform(2)", "uniform(8)", 'qsgd(3, norm="max")', "half", 'half("bfloat16")',
    "power_sgd(1)", "chain(top_k(0.2), uniform(4))", "chain(top_k(0.2), tern_grad)",
]  # fmt: skip
ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
    elements=st.floats(-1000, 1000, width=32),
)


@given(x=ARRAYS, spec=st.sampled_from(SELECTING), seed=st.integers(0, 99))
def test_what_is_sent_and_what_is_left_are_the_array(x, spec, seed):
    """Exactly: a selection changes no value."""
    codec, rng = ErrorFeedback(codec_of(spec)), np.random.default_rng(seed)
    payload, memory = codec.encode(x, {}, rng)
    sent, _ = codec.decode(payload, x.shape, x.dtype, {})
    assert np.array_equal(sent + memory["residual"], x)
    assert not np.any((sent != 0) & (memory["residual"] != 0))
    owed = x + memory["residual"]
    payload, after = codec.encode(x, memory, rng)
    sent, _ = codec.decode(payload, x.shape, x.dtype, {})
    assert np.array_equal(sent + after["residual"], owed)


@given(x=ARRAYS, spec=st.sampled_from(QUANTISING), seed=st.integers(0, 99))
def test_what_is_left_is_the_rounded_difference(x, spec, seed):
    codec, rng = ErrorFeedback(codec_of(spec)), np.random.default_rng(seed)
    payload, memory = codec.encode(x, {}, rng)
    sent, _ = codec.decode(payload, x.shape, x.dtype, {})
    assert np.array_equal(memory["residual"], x - sent)
    assert memory["residual"].dtype == x.dtype


@pytest.mark.parametrize("spec", [*SELECTING[:2], *QUANTISING])
def test_nothing_is_lost_over_rounds_and_what_is_owed_stays_bounded(spec):
    """The sum of what was sent is the sum of the arrays, but for the last residual."""
    codec, rng = codec_of(f"error_feedback({spec})"), np.random.default_rng(0)
    memory, sent, given_in = {}, np.zeros((20, 30)), np.zeros((20, 30))
    for _ in range(60):
        x = rng.standard_normal((20, 30))
        payload, memory = codec.encode(x, memory, rng)
        sent += codec.decode(payload, x.shape, x.dtype, {})[0]
        given_in += x
    assert np.allclose(sent + memory["residual"], given_in, atol=1e-9)
    assert np.linalg.norm(memory["residual"]) < 20 * np.linalg.norm(x)


def test_a_dropped_value_comes_later():
    codec, rng = ErrorFeedback(TopK(0.01)), np.random.default_rng(0)
    x = np.array([3, 2], np.float32)
    first, memory = codec.encode(x, {}, rng)
    second, memory = codec.encode(x, memory, rng)
    assert codec.decode(first, (2,), np.float32, {})[0].tolist() == [3, 0]
    assert codec.decode(second, (2,), np.float32, {})[0].tolist() == [0, 4]
    assert memory["residual"].tolist() == [3, 0]


@pytest.mark.parametrize("spec", ["top_k(0.1)", "sign", "power_sgd(2)", "chain(top_k(0.2), uniform(4))"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_ends_of_ef21_hold_the_same_estimate_which_approaches_the_array(spec, dtype):
    codec, rng = EF21(codec_of(spec)), np.random.default_rng(0)
    x = rng.standard_normal((20, 30)).astype(dtype)
    sender, receiver = {}, {}
    for _ in range(60):
        payload, sender = codec.encode(x, sender, rng)
        estimate, receiver = codec.decode(payload, x.shape, x.dtype, receiver)
        assert np.array_equal(sender["estimate"], receiver["estimate"])
        assert np.array_equal(estimate, receiver["estimate"])
    assert np.linalg.norm(estimate - x) < 0.1 * np.linalg.norm(x)


def test_ef21_by_hand():
    codec, rng = EF21(TopK(0.01)), np.random.default_rng(0)
    payload, sender = codec.encode(np.array([3.0, 2.0]), {}, rng)
    first, receiver = codec.decode(payload, (2,), np.float64, {})
    payload, sender = codec.encode(np.array([5.0, 1.0]), sender, rng)
    second, _ = codec.decode(payload, (2,), np.float64, receiver)
    assert (first.tolist(), second.tolist()) == ([3, 0], [5, 0])


def test_the_decoded_estimate_is_not_the_remembered_one():
    codec = EF21(TopK(1.0))
    payload, _ = codec.encode(np.ones(3), {}, np.random.default_rng(0))
    estimate, receiver = codec.decode(payload, (3,), np.float64, {})
    estimate += 1
    assert receiver["estimate"].tolist() == [1, 1, 1]


def test_power_sgd_finds_a_matrix_of_its_rank_and_improves_from_where_it_was():
    codec, rng = codec_of("power_sgd(2)"), np.random.default_rng(0)
    low_rank = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 40))
    payload, _ = codec.encode(low_rank, {}, rng)
    assert np.allclose(codec.decode(payload, (30, 40), np.float64, {})[0], low_rank)
    full = rng.standard_normal((30, 40))
    left, values, right = np.linalg.svd(full)
    best = np.linalg.norm(full - left[:, :2] * values[:2] @ right[:2])
    memory, errors = {}, []
    for _ in range(40):
        payload, memory = codec.encode(full, memory, rng)
        errors.append(np.linalg.norm(full - codec.decode(payload, (30, 40), np.float64, {})[0]))
    assert errors[-1] < 1.001 * best < errors[0]


@pytest.mark.parametrize("spec", ["error_feedback(top_k(0.5))", "ef21(top_k(0.5))", "power_sgd(1)"])
def test_memories_and_arrays_are_not_changed(spec):
    codec, rng = codec_of(spec), np.random.default_rng(0)
    x = rng.standard_normal((8, 9))
    _, memory = codec.encode(x, {}, rng)
    before = {key: values.copy() for key, values in memory.items()} | {"x": x.copy()}
    for values in (*memory.values(), x):
        values.flags.writeable = False
    payload, _ = codec.encode(x, memory, rng)
    codec.decode(payload, x.shape, x.dtype, {})
    assert all(np.array_equal(before[key], values) for key, values in (*memory.items(), ("x", x)))


@pytest.mark.parametrize("spec", ["error_feedback(top_k(0.5))", "ef21(top_k(0.5))", "power_sgd(1)"])
def test_a_memory_of_another_shape_is_refused(spec):
    codec, rng = codec_of(spec), np.random.default_rng(0)
    _, memory = codec.encode(np.ones((8, 9)), {}, rng)
    with pytest.raises(CodecError, match="begin anew"):
        codec.encode(np.ones((8, 10)), memory, rng)


def test_a_receivers_estimate_of_another_shape_is_refused():
    codec, rng = EF21(TopK(0.5)), np.random.default_rng(0)
    payload, memory = codec.encode(np.ones(8), {}, rng)
    with pytest.raises(CodecError, match="begin anew"):
        codec.decode(payload, (8,), np.float32, memory)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("random_k(0.1)", "unbiased=False"),
        ("chain(random_k(0.1), uniform(4))", "unbiased=False"),
        ('per_layer({"a": random_k(0.1), "*": raw})', "unbiased=False"),
        ("uniform(1)", "take sign"),
        ("qsgd", "levels above 12"),
        ("qsgd(127, 0)", "with a bucket"),
        ("error_feedback(sign)", "each has its own memory"),
        ("ef21(sign)", "each has its own memory"),
    ],
)
@pytest.mark.parametrize("outer", ["error_feedback", "ef21"])
def test_codecs_whose_residual_would_grow_are_refused(outer, spec, told):
    with pytest.raises(ConfigError, match=told):
        codec_of(f"{outer}({spec})")


def test_a_policy_by_layer_has_no_memory_of_its_own():
    codec = codec_of('error_feedback(per_layer({"fc*": raw, "*": top_k(0.1)}))')
    x = np.arange(20.0)
    for name, kept in (("fc.weight", 20), ("conv.weight", 2)):
        payload, memory = codec.for_array(name).encode(x, {}, np.random.default_rng(0))
        sent = codec.for_array(name).decode(payload, x.shape, x.dtype, {})[0]
        assert np.count_nonzero(x == sent) >= kept
        assert np.array_equal(sent + memory["residual"], x)


def test_an_unscaled_random_k_sends_values_as_they_are():
    x = np.arange(1.0, 101)
    payload, _ = RandomK(0.1, unbiased=False).encode(x, {}, np.random.default_rng(0))
    sent = RandomK(0.1, unbiased=False).decode(payload, x.shape, x.dtype, {})[0]
    assert np.count_nonzero(sent) == 10
    assert np.array_equal(sent[sent != 0], x[sent != 0])
