"""The spline code: SciPy's smoothing splines where SciPy has them, the same equations below."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_smoothing_spline

from fedeff.codes.berrut import worker_points
from fedeff.codes.patterns import erasure_patterns
from fedeff.codes.spline import Spline, smoothing_matrix
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator

WEIGHTS = st.sampled_from([1e-6, 1e-3, 0.1, 10.0])


@given(n=st.integers(5, 12), smooth=WEIGHTS, seed=st.integers(0, 2**32 - 1))
def test_from_five_points_on_it_is_scipys(n, smooth, seed):
    rng = generator(seed, purpose="spline")
    points = np.sort(rng.choice(worker_points(40), n, replace=False))[::-1]
    values, inside = rng.standard_normal((n, 3)), np.linspace(points[-1], points[0], 17)
    expected = make_smoothing_spline(points[::-1], values[::-1], lam=smooth)(inside)
    assert smoothing_matrix(points, inside, smooth) @ values == pytest.approx(expected, rel=1e-6, abs=1e-8)


@given(n=st.integers(2, 9), smooth=st.one_of(st.just(0.0), WEIGHTS))
def test_straight_lines_stay_straight_beyond_the_outermost_points_too(n, smooth):
    points, anywhere = worker_points(n) / 2, np.linspace(-1, 1, 9)
    matrix = smoothing_matrix(points, anywhere, smooth)
    assert matrix @ (3 * points - 1) == pytest.approx(3 * anywhere - 1, abs=1e-8)


@given(n=st.sampled_from([3, 4]), smooth=WEIGHTS, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_three_or_four_points_have_the_least_of_error_and_roughness(n, smooth, seed):
    rng = generator(seed, purpose="least")
    points, values = worker_points(n), rng.standard_normal(n)
    fine = np.linspace(-1, 1, 1001)
    through = smoothing_matrix(points, fine, 0)

    def cost(fitted: np.ndarray) -> float:
        bend = np.diff(through @ fitted, 2) / (fine[1] - fine[0]) ** 2
        return float(((fitted - values) ** 2).sum() + smooth * np.square(bend).sum() * (fine[1] - fine[0]))

    best = smoothing_matrix(points, points, smooth) @ values
    for _ in range(5):
        assert cost(best) <= cost(best + 0.1 * rng.standard_normal(n)) + 1e-3 * smooth


def test_one_point_is_a_constant_and_beyond_the_ends_is_hand_computed():
    assert smoothing_matrix(np.array([0.3]), np.array([-1.0, 1.0]), 0.1).tolist() == [[1], [1]]
    # Through (0, 0), (1, 1), (2, 0): the slope at 2 of the natural cubic is -3/2.
    beyond = smoothing_matrix(np.array([2.0, 1.0, 0.0]), np.array([4.0]), 0.0) @ [0.0, 1.0, 0.0]
    assert beyond == pytest.approx([-3.0])


@pytest.mark.parametrize(("k", "r"), [(1, 0), (1, 3), (2, 1), (4, 2), (10, 5)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_subset_decodes_constants_in_their_dtype(k, r, dtype):
    code = Spline(k, r, smooth_encoder=1e-3)
    tasks = code.encode(np.full((k, 2, 3), 4.0, dtype))
    assert tasks.shape == (k + r, 2, 3)
    n = k + r
    for mask in erasure_patterns(n, n - 1, limit=200, rng=generator(0, purpose="masks")):
        decoded = code.decode(np.where(mask[:, None, None], tasks, np.array(np.nan, dtype)), mask)
        assert decoded.values.dtype == np.dtype(dtype)
        assert np.abs(decoded.values - 4.0).max() < 4e-5
        assert np.isnan(decoded.quality).all()


def test_more_workers_come_closer():
    inputs = np.linspace(0, 1, 6) ** 2
    errors = []
    for r in (4, 20, 100):
        code = Spline(6, r, smooth_decoder=1e-9)
        outputs = np.exp(code.encode(inputs))
        errors.append(np.abs(code.decode(outputs, np.ones(6 + r, bool)).values - np.exp(inputs)).max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_impossible_settings_and_patterns_are_refused():
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match=r"smooth_decoder is .*, expected 0 or more"):
            Spline(2, 1, smooth_decoder=weight)
    with pytest.raises(CodeError, match="cannot decode"):
        Spline(2, 1).decode(np.zeros(3), np.zeros(3, bool))
