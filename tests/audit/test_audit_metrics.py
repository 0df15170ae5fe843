"""Metrics of images, tokens and labels on cases that are known, and by naive twins."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.audit.judging.metrics import (
    HIGHEST_PSNR_DB,
    label_counts_f1,
    matched,
    psnr_db,
    psnr_table,
    rouge_l,
    rouge_n,
    ssim,
    token_table,
)
from fedeff.errors import AuditError


def images(seed, *shape):
    return np.random.default_rng(seed).random(shape)


def test_psnr_by_hand():
    assert psnr_db(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.1)) == pytest.approx(20.0)
    assert psnr_db(np.zeros(4), np.full(4, 0.2), peak=2.0) == pytest.approx(20.0)
    assert psnr_db(images(0, 3, 4, 4), images(0, 3, 4, 4)) == HIGHEST_PSNR_DB


def test_psnr_keeps_the_digits_of_float64():
    one = images(0, 1, 8, 8)
    assert psnr_db(one, one + 1e-15) == pytest.approx(300, abs=3)


def test_psnr_of_no_rows_is_an_empty_table():
    assert psnr_table(np.empty((0, 1, 2, 2)), np.zeros((3, 1, 2, 2))).shape == (0, 3)
    with pytest.raises(AuditError, match="an attack rebuilds whole inputs"):
        psnr_table(np.zeros((1, 4)), np.zeros((1, 5)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_matching_is_the_best_of_all_permutations(seed, rows, columns):
    table = images(seed, rows, columns)
    pairs = [(row, column) for column, row in enumerate(matched(table)) if row is not None]
    assert len(pairs) == len({row for row, _ in pairs}) == min(rows, columns)
    wide = table if rows <= columns else table.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert sum(table[pair] for pair in pairs) == pytest.approx(best)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 16), st.integers(1, 16)),
)
def test_ssim_is_one_for_equal_images_symmetric_and_at_most_one(seed, channels, size):
    one, other = images(seed, channels, *size), images(seed + 1, channels, *size)
    assert ssim(one, one) == pytest.approx(1.0)
    assert ssim(one, other) == pytest.approx(ssim(other, one))
    assert ssim(one, other) <= 1.0


def test_ssim_of_flat_images_is_their_luminance_alone():
    a, b, c1 = 0.3, 0.6, 0.01**2
    flat = ssim(np.full((1, 20, 20), a), np.full((1, 20, 20), b))
    assert flat == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_ssim_of_one_window_by_hand():
    x, y = images(3, 1, 11, 11), images(4, 1, 11, 11)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    mx, my = (weights * x[0]).sum(), (weights * y[0]).sum()
    vx, vy = (weights * (x[0] - mx) ** 2).sum(), (weights * (y[0] - my) ** 2).sum()
    both = (weights * (x[0] - mx) * (y[0] - my)).sum()
    by_hand = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim(x, y) == pytest.approx(by_hand)


def test_ssim_falls_with_noise_where_psnr_does():
    clean = images(0, 1, 28, 28).cumsum(axis=2) / 28
    noise = np.random.default_rng(1).standard_normal(clean.shape)
    falling = [ssim(clean, clean + level * noise) for level in (0.01, 0.05, 0.2, 0.8)]
    assert falling == sorted(falling, reverse=True)


def test_ssim_takes_two_images_of_one_shape():
    with pytest.raises(AuditError, match="expected two"):
        ssim(np.zeros((8, 8)), np.zeros((8, 8)))


def test_tokens_are_compared_place_by_place_and_open_ones_are_wrong():
    truth = np.array([[1, 2, 3], [4, 5, 6]])
    table = token_table(np.array([[4, 5, -1], [1, 9, 3]]), truth)
    assert table.tolist() == [[0, 2], [2, 0]]
    assert token_table(np.array([[1, 2, 3, 7]]), truth).tolist() == [[3, 0]]
    assert token_table(np.array([[0, -1]]), np.array([[0, -1]])).tolist() == [[1]]


def test_rouge_by_hand():
    truth, found = [1, 2, 3, 4], [1, 2, 4, 3, 3]
    assert rouge_n(found, truth, 1) == pytest.approx(2 * 4 / 9)
    assert rouge_n(found, truth, 2) == pytest.approx(2 * 1 / 7)
    assert rouge_l(found, truth) == pytest.approx(2 * 3 / 9)
    assert rouge_n([1], [1], 2) == rouge_l([], [1]) == 0.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.integers(0, 3), min_size=1, max_size=8)
)
def test_longest_common_subsequence_as_the_naive_one(left, right):
    def longest(i, j):
        if i == len(left) or j == len(right):
            return 0
        if left[i] == right[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert rouge_l(left, right) == pytest.approx(2 * longest(0, 0) / (len(left) + len(right)))


def test_label_counts():
    assert label_counts_f1(np.array([3, 1, 1]), np.array([1, 3, 1])) == 1.0
    assert label_counts_f1(np.array([1, 1, 1]), np.array([1, 3, 1])) == pytest.approx(2 / 3)
    assert label_counts_f1(np.array([1, 3]), np.array([1, 3, 5])) == pytest.approx(0.8)
    assert label_counts_f1(np.array([], int), np.array([1])) == 0.0
