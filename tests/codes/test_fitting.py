"""Delay models are found again in what they drew; workers that are slow together are noticed."""

import numpy as np
import pytest

from fedeff.codes.fitting import fit_delays, togetherness
from fedeff.core.delays import parse_delays
from fedeff.core.traces import Trace


def drawn(spec, rounds=400, workers=5):
    delays = parse_delays(spec, 1)
    return Trace(np.array([[delays.slowdown(c, t) for c in range(workers)] for t in range(rounds)]))


@pytest.mark.parametrize("spec", ["exponential:1,2", "pareto:2,1", "weibull:0.5,1", "bimodal:8,0.1"])
def test_the_model_that_drew_is_the_best_fit(spec):
    best, second = fit_delays(drawn(spec))[:2]
    assert best.spec.partition(":")[0] == spec.partition(":")[0]
    assert best.distance < 0.05 < second.distance
    assert parse_delays(best.spec, best.model.seed) is not None


def test_parameters_are_found_again_up_to_the_median_that_traces_are_divided_by():
    trace = drawn("pareto:2,3")
    best = fit_delays(trace)[0]
    assert best.model.shape == pytest.approx(2, rel=0.1)
    assert best.model.scale == pytest.approx(3 / np.median(trace.durations), rel=0.01)


def test_the_distance_is_scipys():
    from scipy.stats import expon, kstest

    trace = drawn("exponential:1,1", rounds=60)
    fitted = next(one for one in fit_delays(trace) if one.spec.startswith("exponential"))
    x = (trace.durations / np.median(trace.durations)).ravel()
    wanted = kstest(x, expon(fitted.model.shift, fitted.model.mean).cdf).statistic
    assert fitted.distance == pytest.approx(wanted, abs=1e-9)


def test_models_that_cannot_be_are_left_out():
    assert fit_delays(Trace(np.ones((5, 3)))) == ()
    names = [one.spec.partition(":")[0] for one in fit_delays(Trace(np.array([[0.0, 1.0], [2.0, 3.0]])))]
    assert "pareto" not in names  # a Pareto task takes some time


def test_slow_together_or_each_for_itself():
    rng = np.random.default_rng(0)
    alone = 1 + 9.0 * (rng.random((4000, 4)) < 0.1)
    together = np.repeat(1 + 9.0 * (rng.random((4000, 1)) < 0.1), 4, axis=1)
    found = togetherness(Trace(alone))
    assert found.slow == pytest.approx(0.1, abs=0.01)
    assert found.several == pytest.approx(found.independent, abs=0.01)
    found = togetherness(Trace(together))
    assert found.several == pytest.approx(0.1, abs=0.02)
    assert found.independent < 0.07
    assert found.given_one == 4
