"""A stream with queues: by hand, and against order statistics where nothing queues."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.codes.latency import coded
from fedeff.codes.serving import Scheme, serve
from fedeff.core.delays import Bimodal, NoDelay, ShiftedExponential, parse_delays
from fedeff.core.errors import ConfigError
from fedeff.core.traces import Trace

SLOW_FIRST = Trace(np.array([[5.0, 1.0, 1.0]] * 3))  # worker 0 takes five times as long


def test_a_queue_by_hand():
    served = serve(Scheme(workers=1, k=2), np.array([0.0, 0.5]), NoDelay())
    np.testing.assert_array_equal(served.items, [[1, 2], [2.5, 3.5]])
    assert (served.busy_s, served.tasks, served.reconstructed) == (4, 4, 0)


def test_a_parity_answers_for_the_slow_worker():
    served = serve(Scheme(workers=2, k=2, r=1, parity_workers=1), np.array([0.0]), SLOW_FIRST)
    np.testing.assert_array_equal(served.items, [[1, 1]])
    assert (served.busy_s, served.tasks, served.reconstructed) == (7, 3, 1)


def test_a_hedge_answers_for_it_later_and_once():
    served = serve(Scheme(workers=2, k=1, hedge_after_s=2.0), np.array([0.0]), SLOW_FIRST)
    np.testing.assert_array_equal(served.items, [[3]])
    assert (served.busy_s, served.tasks) == (6, 2)


def test_what_nobody_needs_any_more_does_not_begin():
    copies = serve(Scheme(workers=1, k=1, copies=2), np.array([0.0]), NoDelay())
    assert (copies.items.tolist(), copies.tasks) == ([[1]], 1)


@pytest.mark.parametrize("spec", ["exponential:1,1", "pareto:2", "bimodal:8,0.1"])
def test_far_apart_groups_wait_as_order_statistics_say(spec):
    delays, groups, apart_s = parse_delays(spec, 4), 40, 1000
    arrivals_s = apart_s * np.arange(groups, dtype=float)
    served = serve(Scheme(workers=4, k=4, r=2, parity_workers=2), arrivals_s, delays)
    times = np.array([[delays.slowdown(w, apart_s * t) for w in range(6)] for t in range(groups)])
    np.testing.assert_allclose(served.items, coded(times, 4, 2).items, rtol=1e-9)
    assert served.busy_s == pytest.approx(times.sum())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 4),
    r=st.integers(0, 2),
    copies=st.integers(1, 2),
    hedge=st.sampled_from([0.5, 2.0, float("inf")]),
)
def test_every_item_is_answered_not_before_the_fastest_worker_could(seed, k, r, copies, hedge):
    arrivals_s = np.random.default_rng(seed).exponential(1.0, 15).cumsum()
    scheme = Scheme(3, k, r, parity_workers=2 if r else 0, copies=copies, hedge_after_s=hedge)
    served = serve(scheme, arrivals_s, ShiftedExponential(seed=seed))
    assert served.items.shape == (15, k)
    assert np.isfinite(served.items).all()
    assert (served.items >= 1 - 1e-9).all()
    assert served.tasks <= 15 * (k * (copies + (hedge < np.inf)) + r)
    assert served.busy_s >= served.tasks - 1e-9


def test_equal_delays_for_every_scheme():
    """Where nothing queues an uncoded item takes what it took when it had a code, or more."""
    arrivals_s, delays = 100 * np.arange(30.0), Bimodal(seed=2)
    plain = serve(Scheme(workers=3, k=3), arrivals_s, delays)
    with_code = serve(Scheme(workers=3, k=3, r=1, parity_workers=1), arrivals_s, delays)
    assert (with_code.items <= plain.items + 1e-9).all()
    assert with_code.reconstructed > 0


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0, "k": 1}, {"workers": 1, "k": 1, "r": 1}, {"workers": 1, "k": 1, "hedge_after_s": 0}],
)
def test_schemes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"must be at least 1|give both or neither|expected a positive"):
        Scheme(**wrong)
