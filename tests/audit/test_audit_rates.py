"""Bounds and tests against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedeff.audit.judging.rates import chance_of, clean_trials_for, holm, rate_below
from fedeff.errors import ConfigError


@settings(max_examples=25, deadline=None)
@given(trials=st.integers(1, 500), confidence=st.floats(0.5, 0.999))
def test_without_a_leak_the_bound_is_closed(trials, confidence):
    assert rate_below(0, trials, confidence) == pytest.approx(1 - (1 - confidence) ** (1 / trials), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), trials=st.integers(1, 60))
def test_at_the_bound_so_few_leaks_have_the_remaining_probability(data, trials):
    leaks = data.draw(st.integers(0, trials - 1))
    assert binom.cdf(leaks, trials, rate_below(leaks, trials)) == pytest.approx(0.05, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tries=st.integers(1, 200), rate=st.floats(1e-3, 0.999))
def test_the_chance_of_so_many_hits_is_the_binomial_tail(data, tries, rate):
    hits = data.draw(st.integers(0, tries))
    expected = binom.sf(hits - 1, tries, rate)
    assert chance_of(hits, tries, rate) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_nothing_is_known_without_trials_and_if_all_leak():
    assert rate_below(0, 0) == rate_below(7, 7) == 1.0


@pytest.mark.parametrize(("budget", "trials"), [(0.05, 59), (0.01, 299), (0.1, 29), (0.5, 5)])
def test_trials_for_a_budget(budget, trials):
    assert clean_trials_for(budget) == trials
    assert rate_below(0, trials) <= budget < rate_below(0, trials - 1)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_bonferroni_and_nothing(values):
    p = {str(place): value for place, value in enumerate(values)}
    adjusted = holm(p)
    for name, value in p.items():
        assert value <= adjusted[name] <= min(1.0, len(p) * value) + 1e-12
    order = sorted(p, key=lambda name: p[name])
    assert np.all(np.diff([adjusted[name] for name in order]) >= 0)


def test_impossible_counts_are_refused():
    with pytest.raises(ConfigError, match="3 leaks in 2 trials"):
        rate_below(3, 2)
    with pytest.raises(ConfigError, match="budget is 1"):
        clean_trials_for(1.0)
