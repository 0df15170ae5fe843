"""Order statistics of delays, held to naive references and to what follows by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.codes.latency import coded, replicated, slowdowns
from fedeff.core.delays import NoDelay, ShiftedExponential
from fedeff.core.errors import ConfigError
from fedeff.core.traces import Trace


def test_by_hand():
    times = np.array([[1.0, 9.0, 2.0, 4.0]])
    uncoded = coded(times, 3, 0)
    assert uncoded.items.tolist() == [[1, 9, 2]]
    assert uncoded.groups.tolist() == [9]
    one_parity = coded(times, 3, 1)
    assert one_parity.items.tolist() == [[1, 4, 2]]
    assert one_parity.busy.tolist() == [16]
    copies = replicated(times, 2, 2)
    assert copies.items.tolist() == [[1, 4]]
    assert copies.groups.tolist() == [4]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 5), r=st.integers(0, 4))
def test_an_item_waits_for_its_worker_or_for_k_of_all(seed, k, r):
    times = np.random.default_rng(seed).integers(1, 6, (7, k + r)).astype(float)
    found = coded(times, k, r)
    for row, items in zip(times, found.items, strict=True):
        for item in range(k):
            waits = [t for t in sorted(row) if row[item] <= t or (row <= t).sum() >= k]
            assert items[item] == waits[0]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6))
def test_more_parities_never_make_an_item_later(seed, k):
    times = np.random.default_rng(seed).exponential(size=(20, 12))
    taken = [coded(times, k, r).items for r in range(7)]
    assert all((later <= sooner).all() for sooner, later in itertools.pairwise(taken))


def test_one_item_and_its_parity_are_two_copies():
    times = slowdowns(ShiftedExponential(seed=3), 2, range(50))
    np.testing.assert_array_equal(coded(times, 1, 1).items, replicated(times, 1, 2).items)


def test_workers_take_turns():
    trace = Trace(np.array([[1.0, 2.0, 3.0]] * 4))
    np.testing.assert_array_equal(
        slowdowns(trace, 3, range(4)) * 2, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]
    )


@pytest.mark.parametrize(
    "wrong", [lambda t: coded(t, 3, 2), lambda t: coded(t, 0, 1), lambda t: replicated(t, 3, 2)]
)
def test_too_few_workers_are_refused(wrong):
    with pytest.raises(ConfigError, match="workers of the 4 there are"):
        wrong(np.ones((2, 4)))


def test_nobody_to_wait_for_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        slowdowns(NoDelay(), 0, range(3))
