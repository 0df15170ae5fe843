"""Guesses without the update."""

import numpy as np
import pytest
from audit.results import digits

from fedeff.audit.judging.floor import floor_psnr_db, floor_tokens, guess_from, labels_chance
from fedeff.audit.judging.metrics import psnr_db
from fedeff.errors import AuditError


def test_guesses_of_images_are_the_mean_and_the_row_nearest_to_all_others():
    rows = np.array([[0.0], [0.4], [0.5], [0.6], [1.0]] * 2)[..., None, None]
    floor = guess_from(rows)
    assert floor.mean.item() == pytest.approx(0.5)
    assert floor.typical.item() == 0.5
    outlier = np.concatenate([rows, np.full((1, 1, 1, 1), 5.0)])
    assert guess_from(outlier).typical.item() == 1.0  # their mean is 0.91
    flat = outlier.ravel()
    apart = [((flat - one) ** 2).sum() for one in flat]
    assert guess_from(outlier).typical.item() == flat[int(np.argmin(apart))]


def test_the_floor_is_the_better_guess_row_by_row():
    floor = guess_from(digits(100))
    truth = digits(30, seed=7)
    seen = floor_psnr_db(floor, truth)
    for row, value in zip(truth, seen, strict=True):
        assert value == max(psnr_db(floor.mean, row), psnr_db(floor.typical, row))
    assert 7 < np.median(seen) < 14  # what somebody gets who knows digits, and nothing of the client


def test_the_truth_does_not_change_the_guess():
    rows = digits(120)
    assert np.array_equal(guess_from(rows).mean, guess_from(rows[:100]).mean)  # and 100 rows are all it takes


def test_guesses_of_texts_are_the_usual_token_at_each_place():
    rows = np.array([[1, 2, 3], [1, 2, 4], [1, 5, 3]] * 4)
    floor = guess_from(rows)
    assert floor.mean.tolist() == [1, 2, 3]
    assert floor.typical.tolist() == [1, 2, 3]
    assert floor_tokens(floor, np.array([[1, 2, 9], [1, 9, 9]])) == pytest.approx(0.5)


def test_few_rows_are_refused():
    with pytest.raises(AuditError, match="9 public rows to guess from"):
        guess_from(np.zeros((9, 1, 2, 2)))


def test_chance_of_telling_one_label_is_the_share_of_the_most_frequent():
    labels = np.array([0] * 30 + [1] * 10)
    seen = labels_chance(labels, 1, np.random.default_rng(0), draws=2000)
    assert seen == pytest.approx(0.75, abs=0.03)


def test_chance_of_telling_labels_by_brute_force():
    # Two of two classes, as likely as each other: the guess of one each is right half of the time.
    seen = labels_chance(np.array([0, 1]), 2, np.random.default_rng(0), draws=2000)
    assert seen == pytest.approx(0.5, abs=0.03)
    assert labels_chance(np.arange(10), 8, np.random.default_rng(0)) < 0.03
