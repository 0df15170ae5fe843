"""The mean of 10,000 seeded draws is the (clipped) value, within a Bonferroni bound over all values."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedeff.compression import codec_of

DRAWS = 10_000
# One false alarm in 10^6 runs of one case, had seeds not been fixed.
ALARM = 1e-6
VALUES = np.concatenate([np.random.default_rng(1).standard_normal(60), [0.0, 4.5, -7.0, 1e-4]])
SIGMA = math.sqrt(np.mean(VALUES**2))
TERNARY = ["tern_grad", 'tern_grad(packing="2bit")', "tern_grad(0)", "tern_grad(1.0)"]
UNIFORM = ["uniform(1)", "uniform(2)", "uniform(3)", "uniform(8)"]
BUCKETS = [
    "qsgd(1, 64)", "qsgd(7, 64)", "qsgd(127, 64)", 'qsgd(1, 64, "max")', 'qsgd(4, 16, "max")', "qsgd(4, 16)",
]  # fmt: skip


def drawn(spec, dtype):
    """Decoded draws, one a row: of a tiled array, whose entries are rounded independently."""
    x = np.tile(VALUES, (DRAWS, 1)).astype(dtype)
    codec = codec_of(spec)
    payload, _ = codec.encode(x, {}, np.random.default_rng(7))
    return codec.decode(payload, x.shape, dtype, {})[0].astype(np.float64)


def assert_unbiased(found, wanted, deviations, rounding):
    """Every mean within its bound, and their sum: what is small but everywhere shows there."""
    quantile = NormalDist().inv_cdf(1 - ALARM / (2 * wanted.size))
    errors = found.mean(axis=0) - wanted
    # The second term is for values that are seldom hit, whose mean is far from normal (Bernstein).
    step = np.ptp(found)
    bound = quantile * deviations / math.sqrt(DRAWS) + step * quantile**2 / DRAWS
    assert np.all(np.abs(errors) < bound + rounding)
    total = math.sqrt((deviations**2).sum() / DRAWS)
    assert abs(errors.sum()) < 5 * total + rounding * wanted.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("spec", TERNARY)
def test_ternary_values(spec, dtype):
    clip = codec_of(spec).clip
    limit = min(clip * SIGMA, 7.0) if clip else 7.0
    clipped = np.clip(VALUES, -limit, limit)
    deviations = np.sqrt(np.abs(clipped) * (limit - np.abs(clipped)))
    assert_unbiased(drawn(spec, dtype), clipped, deviations, 10 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("spec", UNIFORM)
def test_uniform_levels(spec, dtype):
    step = 11.5 / (2 ** codec_of(spec).bits - 1)
    below = (VALUES + 7.0) % step
    deviations = np.sqrt(below * (step - below))
    assert_unbiased(drawn(spec, dtype), VALUES, deviations, 10 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("spec", BUCKETS)
def test_levels_of_a_norm(spec, dtype):
    codec = codec_of(spec)
    buckets = VALUES.reshape(-1, codec.bucket)
    norms = np.abs(buckets).max(1) if codec.norm == "max" else np.linalg.norm(buckets, axis=1)
    step = np.repeat(norms / codec.levels, codec.bucket)
    below = np.abs(VALUES) % step
    deviations = np.sqrt(below * (step - below))
    assert_unbiased(drawn(spec, dtype), VALUES, deviations, 30 * float(np.finfo(dtype).eps))


RANDOM = ["random_k(0.25)", "random_k(0.75)", "chain(random_k(0.5), uniform(4))"]


@pytest.mark.parametrize("spec", RANDOM)
def test_random_entries(spec):
    found = drawn(spec, np.float32)
    assert_unbiased(found, VALUES, found.std(axis=0), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["tern_grad(0)", "uniform(4)", "qsgd(4, 16)", *RANDOM])
def test_as_many_payloads(spec):
    """The same of 10,000 payloads of one array, each from the next draws of one generator."""
    codec, rng = codec_of(spec), np.random.default_rng(2)
    x = VALUES.astype(np.float32)
    found = np.array(
        [codec.decode(codec.encode(x, {}, rng)[0], x.shape, x.dtype, {})[0] for _ in range(DRAWS)]
    )
    assert_unbiased(found.astype(np.float64), VALUES, found.std(axis=0), 1e-6)


def test_a_shared_scale_clips_to_it():
    codec, x = codec_of("tern_grad"), np.tile(VALUES, (DRAWS, 1)).astype(np.float32)
    payload, _ = codec.encode(x, {"shared-scale": np.array(0.75)}, np.random.default_rng(0))
    found = codec.decode(payload, x.shape, x.dtype, {})[0]
    assert set(np.unique(found)) == {-0.75, 0, 0.75}
    clipped = np.clip(VALUES, -0.75, 0.75)
    assert_unbiased(found, clipped, np.sqrt(np.abs(clipped) * (0.75 - np.abs(clipped))), 1e-6)


def test_a_biased_codec_is_caught():
    """What the bound is worth: rounding to the nearest level fails it."""
    nearest = np.round(np.tile(VALUES, (DRAWS, 1)) / 0.5) * 0.5
    with pytest.raises(AssertionError):
        assert_unbiased(nearest, VALUES, np.full(VALUES.size, 0.25), 1e-6)
