"""A clipped and noisy change: the bound for every input, the noise as it is stated."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from fedeff.clients.clipped_noise import ClippedNoise
from fedeff.core.errors import ConfigError, ReplyError

CHANGES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.floats(-(2.0**50), 2.0**50, width=32, allow_subnormal=False),
    ),
)
CLIPS = st.floats(1e-6, 1e6)
ORDER = {"gaussian": 2, "laplace": 1}


def norm(change, order: int) -> float:
    """Of all values together, by the definition."""
    values = [abs(float(v)) for array in change.values() for v in np.ravel(array)]
    return sum(v**order for v in values) ** (1 / order)


@given(CHANGES, CLIPS, st.sampled_from(["gaussian", "laplace"]))
def test_no_change_is_longer_than_the_norm_and_none_is_turned(change, clip, noise):
    clipped = ClippedNoise(clip, 0.0, noise).clipped(change)
    length = norm(change, ORDER[noise])
    assert norm(clipped, ORDER[noise]) <= clip * (1 + 1e-9)
    shrink = min(1.0, clip / length) if length else 1.0
    for key, values in change.items():
        np.testing.assert_allclose(clipped[key], shrink * values.astype(np.float64), rtol=1e-9)
        assert clipped[key].shape == values.shape
        assert clipped[key].dtype == np.float64


@given(CHANGES, CHANGES, CLIPS, st.sampled_from(["gaussian", "laplace"]))
def test_two_clipped_changes_are_no_further_apart_than_the_sensitivity(one, other, clip, noise):
    mechanism = ClippedNoise(clip, 1.0, noise)
    a, b = mechanism.clipped(one), mechanism.clipped(other)
    shared = {key: a[key] - b[key] for key in a.keys() & b.keys() if a[key].shape == b[key].shape}
    assert norm(shared, ORDER[noise]) <= mechanism.sensitivity * (1 + 1e-9)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_opposite_changes_are_as_far_apart_as_the_sensitivity_says(noise):
    mechanism = ClippedNoise(0.7, 1.0, noise)
    far = {"w": np.array([30.0, -40.0])}
    apart = mechanism.clipped(far)["w"] - mechanism.clipped({"w": -far["w"]})["w"]
    assert np.linalg.norm(apart, ORDER[noise]) == pytest.approx(mechanism.sensitivity) == 1.4


@pytest.mark.parametrize(
    ("noise", "law", "std"),
    [("gaussian", stats.norm(scale=0.6), 0.6), ("laplace", stats.laplace(scale=0.6), 0.6 * math.sqrt(2))],
)
def test_noise_is_of_the_law_and_the_deviation_that_are_stated(noise, law, std):
    mechanism = ClippedNoise(2.0, 0.3, noise)
    assert mechanism.std == pytest.approx(std)
    assert mechanism.std == pytest.approx(law.std())
    zeros = {"w": np.zeros((100, 100)), "b": np.zeros(10_000)}
    told = mechanism.released(zeros, np.random.default_rng(5))
    for values in told.values():
        assert stats.kstest(values.ravel(), law.cdf).pvalue > 0.01
        assert np.std(values) == pytest.approx(std, rel=0.05)
    assert abs(np.corrcoef(told["w"].ravel(), told["b"])[0, 1]) < 0.05


def test_noise_comes_after_the_clipping():
    change = {"w": np.full(4, 100.0)}
    quiet, loud = ClippedNoise(1.0), ClippedNoise(1.0, 0.25)
    drawn = np.random.default_rng(3).normal(0.0, 0.25, 4)
    found = loud.released(change, np.random.default_rng(3))["w"]
    np.testing.assert_allclose(found, quiet.clipped(change)["w"] + drawn)


def test_without_a_norm_nothing_is_clipped_and_the_multiplier_is_the_scale():
    mechanism = ClippedNoise(0.0, 0.01)
    assert (mechanism.std, mechanism.sensitivity) == (0.01, math.inf)
    assert mechanism.clipped({"w": np.full(3, 1e6)})["w"].tolist() == [1e6] * 3


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_change_that_is_not_finite_is_refused(broken):
    with pytest.raises(ReplyError, match="lower the learning rate"):
        ClippedNoise(1.0).clipped({"w": np.array([0.0, broken])})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((-1.0,), "local-clipping-norm is -1.0"),
        ((1.0, math.nan), "local-noise-multiplier is nan"),
        ((1.0, 1.0, "gausian"), "did you mean 'gaussian'"),
    ],
)
def test_values_that_mean_nothing_are_refused(given, said):
    with pytest.raises(ConfigError) as refused:
        ClippedNoise(*given)
    assert said in str(refused.value)
