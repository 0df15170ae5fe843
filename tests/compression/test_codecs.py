"""Every codec: answers by hand, every type and shape, the edges of floats, what is refused."""

import math
import pickle
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedeff.compression import (
    EF21,
    QSGD,
    Chain,
    Codec,
    Half,
    PerLayer,
    PowerSGD,
    RandomK,
    Raw,
    Selection,
    Sign,
    TernGrad,
    TopK,
    Uniform,
    codec_of,
)
from fedeff.errors import CodecError, ConfigError

SPECS = [
    "raw", "half", 'half("bfloat16")', "sign", "tern_grad", 'tern_grad(packing="2bit")', "uniform",
    "uniform(3)",
    "qsgd", "qsgd(1, 0)", 'qsgd(4, norm="max")', "top_k(0.1)", "random_k(0.3)", "power_sgd(1)",
    "chain(top_k(0.3), uniform(4))", "error_feedback(chain(top_k(0.3), sign))", "ef21(top_k(0.1))",
]  # fmt: skip
FLOATS = [np.float16, np.float32, np.float64]


def rng(seed=0):
    return np.random.default_rng(seed)


def there_and_back(codec, x, memory=None, seed=0):
    payload, _ = codec.encode(x, memory or {}, rng(seed))
    return codec.decode(payload, x.shape, x.dtype, {})[0]


# --- by hand --------------------------------------------------------------------------------------


def test_raw_is_the_bytes():
    assert Raw().encode(np.array([1, 2], np.int16), {}, rng()) == (b"\x01\0\x02\0", {})


def test_sign_is_the_mean_magnitude():
    x = np.array([1, -2, 0, -5], np.float32)
    payload, _ = Sign().encode(x, {}, rng())
    assert payload == np.float32(2).tobytes() + bytes([0b10100000])
    assert there_and_back(Sign(), x).tolist() == [2, -2, 2, -2]


def test_top_k_keeps_the_largest_magnitudes_and_the_first_of_equal_ones():
    x = np.array([1, -3, 2, 3, -3, 0], np.float32)
    assert there_and_back(TopK(0.34), x).tolist() == [0, -3, 0, 3, 0, 0]
    assert there_and_back(TopK(0.01), x).tolist() == [0, -3, 0, 0, 0, 0]
    assert np.array_equal(there_and_back(TopK(1), x), x)


def test_random_k_scales_by_what_it_leaves_out():
    x = np.arange(1.0, 101)
    found = there_and_back(RandomK(0.1), x)
    assert np.count_nonzero(found) == 10
    assert np.allclose(found[found != 0], 10 * x[found != 0])


def test_every_entry_is_as_likely_and_a_seed_means_the_same_for_good():
    """Golden: blobs of an older version must decode the same."""
    counts = np.zeros(20)
    for seed in range(2000):
        counts += there_and_back(RandomK(0.3), np.ones(20), seed=seed) != 0
    assert np.all(np.abs(counts - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7))
    mask, count, _ = RandomK(0.1).kept(memoryview(bytes(range(8))), 100)
    assert count == 10
    assert np.flatnonzero(mask).tolist() == [5, 19, 21, 34, 43, 60, 70, 73, 90, 94]
    mask, _, _ = RandomK(0.7).kept(memoryview(bytes(range(8))), 20)
    assert np.flatnonzero(~mask).tolist() == [1, 3, 5, 10, 14, 19]


def test_ternary_values_and_payload_by_hand():
    """Values of plus and minus the scale and zero are certain; sigma is 2.31, so nothing is clipped."""
    x = np.array([4, 0, -4, 0, 0, 0], np.float32)
    payload, memory = TernGrad().encode(x, {}, rng())
    # Two bytes of digits 0, 2, ... and 1, 3, ... : (4 -> 2, -4 -> 0, 0 -> 1), then (1, 1, 1).
    first, second = 2 + 0 * 3 + 1 * 9, 1 + 1 * 3 + 1 * 9
    assert payload == bytes([first, second]) + np.float32(4).tobytes()
    assert memory == {}
    assert there_and_back(TernGrad(), x).tolist() == x.tolist()


@given(seed=st.integers(0, 99), clip=st.sampled_from([0.5, 1.0, 2.5, 4.0]))
def test_the_scale_is_the_largest_magnitude_after_clipping_at_sigma(seed, clip):
    """Equation 4.21, sigma by its definition."""
    x = rng(seed).standard_normal(1000) ** 3
    payload, _ = TernGrad(clip).encode(x, {}, rng())
    sigma = math.sqrt(sum(value**2 for value in x.tolist()) / x.size)
    clipped = [max(-clip * sigma, min(value, clip * sigma)) for value in x.tolist()]
    assert TernGrad(clip).own_scale(payload, x.shape, x.dtype) == pytest.approx(max(map(abs, clipped)))
    assert set(np.abs(there_and_back(TernGrad(clip), x))) <= {
        0,
        TernGrad(clip).own_scale(payload, (1000,), "f8"),
    }


def test_sigma_is_the_standard_deviation_where_the_mean_is_zero():
    x = rng().standard_normal(1_000_000).astype(np.float32)
    payload, _ = TernGrad(2.5).encode(x, {}, rng())
    assert TernGrad().own_scale(payload, x.shape, x.dtype) == pytest.approx(2.5 * x.std(), rel=1e-4)


def test_a_single_value_and_a_constant_array_are_not_clipped():
    for x in (np.array([7.0]), np.full(10, -7.0)):
        assert np.array_equal(there_and_back(TernGrad(), x), x)


def test_senders_of_a_shared_scale_have_a_mean_of_few_levels():
    """2N + 1 at most, and each tells what scale it would have taken."""
    senders = [rng(seed).standard_normal(2000).astype(np.float32) for seed in range(4)]
    shared = {"shared-scale": np.array(1.5, np.float32)}
    payloads = [TernGrad().encode(x, shared, rng(seed))[0] for seed, x in enumerate(senders)]
    decoded = [TernGrad().decode(payload, (2000,), np.float32, {})[0] for payload in payloads]
    assert len(np.unique(np.sum(decoded, axis=0) / 1.5)) == 9
    for x, payload in zip(senders, payloads, strict=True):
        alone, _ = TernGrad().encode(x, {}, rng())
        own = TernGrad().own_scale(alone, x.shape, x.dtype)
        assert TernGrad().own_scale(payload, x.shape, x.dtype) == own != 1.5


def test_a_large_shared_scale_does_not_undo_clipping():
    """Of 400 ones and a hundred, sigma is 5.1; the mean of what is sent is that of the clipped value."""
    x = np.array([100.0] + 400 * [1.0])
    sigma = math.sqrt((10_000 + 400) / 401)
    shared = {"shared-scale": np.array(50.0)}
    draws = [TernGrad(1.0).encode(x, shared, rng(seed))[0] for seed in range(3000)]
    hits = sum(TernGrad(1.0).decode(payload, x.shape, x.dtype, {})[0][0] == 50 for payload in draws)
    share = sigma / 50
    assert abs(hits - 3000 * share) < 5 * math.sqrt(3000 * share * (1 - share))


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_an_impossible_shared_scale_is_refused(scale):
    with pytest.raises(CodecError, match="shared scale"):
        TernGrad().encode(np.ones(3), {"shared-scale": np.array(scale)}, rng())


def test_uniform_levels_by_hand():
    x = np.array([-1, 0, 1, 2], np.float32)
    payload, _ = Uniform(2).encode(x, {}, rng())
    assert payload == x[[0, 3]].tobytes() + bytes([0b11100100])
    assert there_and_back(Uniform(2), x).tolist() == [-1, 0, 1, 2]


def test_qsgd_by_hand():
    """Norms 5 and 2: values that are whole shares of them are certain."""
    x = np.array([3, -4, 0, 0, 2, 0], np.float32)
    assert np.allclose(there_and_back(QSGD(5, 4), x), x)
    payload, _ = QSGD(5, 4).encode(x, {}, rng())
    assert payload[1:9] == np.array([5, 2], np.float32).tobytes()


def test_qsgd_takes_the_shorter_form():
    x = rng().standard_normal(100_000).astype(np.float32)
    sparse, _ = QSGD(1, 0).encode(x, {}, rng())
    dense, _ = QSGD(7, norm="max").encode(x, {}, rng())
    assert (sparse[0], dense[0]) == (1, 0)
    assert len(sparse) < 0.05 * x.size / 8
    assert len(dense) < 4.1 * x.size / 8


@pytest.mark.parametrize(("format", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_half_rounds_to_nearest_even(format, bits):
    step = 2.0**-bits
    x = np.array([1, 1 + step, 1 + 0.49 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.51 * step], np.float32)
    assert there_and_back(Half(format), x).tolist() == [1, 1 + step, 1, 1, 1 + 2 * step, -1 - step]


def test_values_beyond_float16_are_refused():
    with pytest.raises(CodecError, match="out of float16's range"):
        Half().encode(np.array([1e6]), {}, rng())
    assert there_and_back(Half("bfloat16"), np.array([1e6]))[0] == pytest.approx(1e6, rel=0.01)


def test_power_sgd_sends_vectors_and_short_matrices_raw():
    for shape in [(100,), (), (2, 2), (1, 50), (0, 4)]:
        x = rng().standard_normal(shape)
        assert PowerSGD(2).encode(x, {}, rng())[0] == x.tobytes()
    x = rng().standard_normal((20, 5, 4)).astype(np.float32)
    assert len(PowerSGD(2).encode(x, {}, rng())[0]) == 2 * (20 + 20) * 4


def test_a_chain_codes_the_kept_values():
    x = np.array([0, 0.5, -8, 4, 0.25], np.float32)
    payload, _ = Chain(TopK(0.4), Raw()).encode(x, {}, rng())
    assert payload.endswith(np.array([-8, 4], np.float32).tobytes())
    assert there_and_back(Chain(TopK(0.4), Uniform(1)), x).tolist() == [0, 0, -8, 4, 0]


def test_the_first_pattern_that_fits_decides():
    policy = PerLayer({"fc2.*": Raw(), "*.bias": Half(), "*": Sign()})
    names = ("fc2.bias", "fc1.bias", "fc1.weight", "FC2.weight")
    assert [policy.for_array(name).name for name in names] == ["raw", "half", "sign", "sign"]
    with pytest.raises(CodecError, match="for_array"):
        policy.encode(np.ones(2), {}, rng())
    with pytest.raises(CodecError, match="for_array"):
        policy.decode(b"", (2,), np.float32, {})


def test_what_is_linear():
    linear = {spec for spec in SPECS if codec_of(spec).linear}
    assert linear == {"raw", "half", 'half("bfloat16")'}
    assert codec_of('per_layer({"fc*": raw, "*": half})').linear
    assert not codec_of('per_layer({"fc*": raw, "*": sign})').linear
    assert codec_of("error_feedback(half)").linear


# --- every codec ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_a_codec_is_a_value(spec):
    codec = codec_of(spec)
    assert isinstance(codec, Codec)
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert hash(codec_of(spec)) == hash(codec)
    assert isinstance(codec, Selection) == (codec.name in ("top_k", "random_k"))
    assert EF21(TopK(0.1)) != EF21(TopK(0.2))


@given(
    spec=st.sampled_from(SPECS),
    x=hnp.arrays(
        st.sampled_from(FLOATS),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7),
        elements=st.floats(-100, 100, width=16),
    ),
    seed=st.integers(0, 99),
)
def test_shape_and_type_come_back_and_zero_stays_zero(spec, x, seed):
    codec = codec_of(spec)
    payload, _ = codec.encode(x, {}, rng(seed))
    found, _ = codec.decode(memoryview(payload), x.shape, x.dtype, {})
    again, _ = codec.decode(payload, x.shape, x.dtype, {})
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert np.array_equal(found, again)
    assert np.isfinite(found).all()
    assert found.flags.writeable
    zeros = there_and_back(codec, np.zeros_like(x))
    assert not zeros.any()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_equal_seeds_give_equal_bytes(spec, dtype):
    x = rng(1).standard_normal((30, 9)).astype(dtype)
    codec = codec_of(spec)
    assert codec.encode(x, {}, rng(5))[0] == codec.encode(np.asfortranarray(x), {}, rng(5))[0]
    assert codec.encode(x[::2], {}, rng(5))[0] == codec.encode(x[::2].copy(), {}, rng(5))[0]
    swapped = x.astype(x.dtype.newbyteorder(">"))
    assert codec.encode(swapped, {}, rng(5))[0] == codec.encode(x, {}, rng(5))[0]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(spec, dtype, bad):
    x = np.ones((4, 5), dtype)
    x[2, 3] = bad
    with pytest.raises(CodecError, match="1 of 20 values are NaN or infinite"):
        codec_of(spec).encode(x, {}, rng())


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "raw"])
@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64])
def test_what_is_not_floats_is_refused(spec, dtype):
    with pytest.raises(CodecError, match="float16, float32 and float64"):
        codec_of(spec).encode(np.ones(3, dtype), {}, rng())
    with pytest.raises(CodecError):
        codec_of(spec).decode(b"12345678", (2,), dtype, {})


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_the_smallest_numbers(spec, dtype):
    """A value or, where they cannot be told, a refusal: never a warning, an infinity or a NaN."""
    may_refuse = codec_of(spec).name in ("half", "random_k", "power_sgd")
    numbers = np.finfo(dtype)
    rows = [numbers.max, -numbers.max, numbers.smallest_subnormal, -numbers.smallest_subnormal, 0, 1]
    for x in (np.array(rows, dtype), np.full((6, 6), numbers.max, dtype), np.array(rows[2:5], dtype)):
        with suppress(CodecError if may_refuse else ()):
            assert np.isfinite(there_and_back(codec_of(spec), x)).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_huge_layer(spec):
    x = rng(1).standard_normal((1500, 1000)).astype(np.float32)
    found = there_and_back(codec_of(spec), x)
    assert found.shape == x.shape
    assert np.dot(found.ravel(), x.ravel()) > 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TopK(0), "above 0 and up to 1"),
        (lambda: TopK(1.5), "above 0 and up to 1"),
        (lambda: TopK(math.nan), "above 0 and up to 1"),
        (lambda: TopK("0.1"), "above 0 and up to 1"),
        (lambda: RandomK(True), "above 0 and up to 1"),
        (lambda: RandomK(0.1, unbiased=1), "True, False"),
        (lambda: Uniform(9), "whole number from 1 to 8"),
        (lambda: Uniform(2.0), "whole number from 1 to 8"),
        (lambda: QSGD(0), "whole number from 1 to 127"),
        (lambda: QSGD(1, -1), "qsgd's bucket"),
        (lambda: QSGD(1, norm="l1"), "'l2', 'max'"),
        (lambda: TernGrad(-1.0), "0 or more"),
        (lambda: TernGrad(math.inf), "0 or more"),
        (lambda: TernGrad(packing="base4"), "'base3', '2bit'"),
        (lambda: Half("float8"), "'float16', 'bfloat16'"),
        (lambda: PowerSGD(0), "whole number from 1"),
        (lambda: Chain(Sign(), Raw()), "top_k or random_k"),
        (lambda: Chain(TopK(0.1), EF21(Sign())), "put it outside"),
        (lambda: Chain(TopK(0.1), "raw"), "give a codec"),
        (lambda: EF21(TopK), "give a codec"),
        (lambda: PerLayer({"fc*": Raw()}), 'must be "\\*"'),
        (lambda: PerLayer({"*": Raw(), "fc*": Raw()}), 'must be "\\*"'),
        (lambda: PerLayer({}), 'must be "\\*"'),
        (lambda: PerLayer(Raw()), "patterns with codecs"),
        (lambda: PerLayer({'"': Raw(), "*": Raw()}), "quotes"),
    ],
)
def test_impossible_fields_are_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()
