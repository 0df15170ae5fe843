"""A stream is its meaning: equal keys equal draws, distinct keys distinct draws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.rng import generator, stream_key

WORDS = st.integers(0, 2**40)
KEYS = st.tuples(WORDS, st.sampled_from(["batches", "cohort", "delay"]), WORDS, WORDS)


def draws(key: tuple[int, str, int, int]) -> np.ndarray:
    seed, purpose, round, client = key
    return generator(seed, purpose=purpose, round=round, client=client).integers(2**63, size=4)


@given(key=KEYS)
def test_equal_keys_give_equal_draws(key):
    assert np.array_equal(draws(key), draws(key))


@given(one=KEYS, two=KEYS)
def test_distinct_keys_give_distinct_draws(one, two):
    assert (one == two) == np.array_equal(draws(one), draws(two))


def test_draws_do_not_change_from_release_to_release():
    rng = generator(7, purpose="cohort", round=2, client=1)
    assert stream_key(7, purpose="cohort", round=2, client=1) == (7, 3552100715, 2, 1)
    assert rng.integers(1000, size=3).tolist() == GOLDEN


def test_neighbouring_clients_are_not_correlated():
    first = [generator(0, purpose="delay", client=client).random() for client in range(2000)]
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
    assert abs(np.mean(first) - 0.5) < 0.03


GOLDEN = [636, 72, 542]
