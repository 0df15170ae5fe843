"""Identification among decoys: exact under chance, sure where something leaks."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from fedeff.audit.judging.identify import chance_p_value, draw_decoys, identified, not_in
from fedeff.audit.truth import Truth


def rows(seed, count, *shape):
    return np.random.default_rng(seed).random((count, *(shape or (4,))))


def test_a_near_copy_is_identified_and_a_far_one_is_not():
    decoys = rows(1, 100)
    truth = rows(2, 1)
    assert identified(truth + 1e-3, truth, [decoys]) == [True]
    assert identified(decoys[:1], truth, [decoys]) == [False]
    assert identified(np.empty((0, 4)), truth, [decoys]) == [False]


def test_too_few_decoys_are_no_test_and_a_tie_is_no_hit():
    truth = rows(2, 1)
    assert identified(truth, truth, [rows(1, 18)]) == [None]
    assert identified(truth, truth, [np.concatenate([rows(1, 50), truth])]) == [False]


def test_any_rebuilt_row_may_point_at_a_true_one():
    truth, decoys = rows(2, 2), rows(1, 60)
    assert identified(truth[::-1] + 1e-3, truth, [decoys, decoys]) == [True, True]


def test_tokens_are_near_by_how_many_are_equal():
    truth = np.arange(12).reshape(1, 12)
    decoys = np.random.default_rng(0).integers(20, 40, (30, 12))
    assert identified(np.where(np.arange(12) < 3, truth, 99), truth, [decoys]) == [True]
    assert identified(np.full((1, 12), 99), truth, [decoys]) == [False]


def test_a_guess_that_does_not_depend_on_the_row_hits_as_often_as_chance():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1500):
        drawn = rng.random((20, 3))
        hits += identified(np.full((2, 3), 0.5), drawn[:1], [drawn[1:]])[0]
    assert binomtest(hits, 1500, 1 / 20).pvalue > 0.01


def test_p_value_of_one_hit_is_one_in_decoys_and_itself():
    assert chance_p_value(1, 1, 100) == pytest.approx(1 / 101)
    assert chance_p_value(0, 20, 100) == 1.0
    assert chance_p_value(5, 5, 100) < 2e-8


@pytest.mark.parametrize(("tested", "decoys", "hits"), [(3, 4, 1), (3, 4, 2), (3, 4, 3), (2, 5, 2)])
def test_p_value_covers_rows_that_share_decoys(tested, decoys, hits):
    # All orders are equally likely: count those in which at least so many true rows come before all decoys.
    places = list(combinations(range(tested + decoys), tested))
    exact = np.mean([sum(place == rank for rank, place in enumerate(chosen)) >= hits for chosen in places])
    assert chance_p_value(hits, tested, decoys) >= exact - 1e-12


def test_decoys_have_the_label_and_are_not_what_was_trained_on():
    inputs, labels = rows(0, 300, 1, 2, 2).astype(np.float32), np.arange(300) % 3
    truth = Truth(inputs[:6].astype(float), labels[:6])
    decoys = draw_decoys(inputs, labels, truth, np.random.default_rng(0))
    for row, others in enumerate(decoys):
        assert len(others) == 98  # of 100 of the label two were trained on
        places = [int(np.flatnonzero((inputs == one).all(axis=(1, 2, 3)))[0]) for one in others]
        assert len(set(places)) == 98
        assert {labels[place] for place in places} == {labels[row]}
        assert min(places) >= 6
    again = draw_decoys(inputs, labels, truth, np.random.default_rng(0), count=10)
    assert all(len(one) == 10 for one in again)


def test_rows_of_the_truth_are_found_whatever_their_precision():
    inputs = rows(0, 5).astype(np.float32)
    assert not_in(Truth(inputs[1:3].astype(float), np.zeros(2, int)), inputs).tolist() == [
        True,
        False,
        False,
        True,
        True,
    ]
