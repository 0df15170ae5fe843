"""Spans of noisy rows: what is in them fits as well as noise says, what is not does not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.audit.gradients.span import Rows, span_of
from fedeff.audit.view import NDArray

WIDTH, RANK = 40, 12
SEEDS = st.integers(0, 2**32 - 1)


def vectors(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((RANK, WIDTH))


def rows(rng: np.random.Generator, read: NDArray, noise: float, told: float, count: int = 60) -> Rows:
    """Combinations of what was read, with noise on them."""
    clean = rng.standard_normal((count, len(read))) @ read
    return Rows(clean + noise * rng.standard_normal(clean.shape), np.full(count, told))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, noise=st.sampled_from([1e-6, 1e-4, 1e-2]), said=st.sampled_from([0.1, 1.0, 10.0]))
def test_vectors_of_the_span_fit_and_others_do_not(seed: int, noise: float, said: float) -> None:
    """Whatever is told of the noise: beyond the rank there is nothing else."""
    rng = np.random.default_rng(seed)
    read = vectors(rng)
    span = span_of([rows(rng, read, noise, said * noise)], RANK)
    assert span is not None
    assert span.rank == RANK
    fit = span.misfit(read)
    assert fit.max() <= 1
    if noise > 1e-5:  # above the rounding that is always allowed for
        assert fit.mean() > 0.3
    assert span.misfit(rng.standard_normal((50, WIDTH))).min() > 1


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_without_a_bound_the_noise_is_the_one_that_is_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    read = vectors(rng)
    span = span_of([rows(rng, read, 1e-4, 1e-4)], None)
    assert span is not None
    assert span.rank == RANK
    assert span.misfit(read).max() <= 1
    assert span_of([rows(rng, read, 1e-2, 1e-4)], None) is None  # noise looks like more directions


def test_a_part_that_is_noisier_than_it_says_does_not_spoil_the_others() -> None:
    rng = np.random.default_rng(2)
    read = vectors(rng)
    off = read + 1e-4 * rng.standard_normal(read.shape)
    good, bad = rows(rng, read, 1e-8, 1e-6), rows(rng, read, 1e-1, 1e-6)
    span = span_of([good, bad], RANK)
    assert span is not None
    assert span.misfit(read).max() <= 1
    assert span.misfit(off).min() > 1


def test_noise_that_drowns_everything_lets_nothing_be_said() -> None:
    rng = np.random.default_rng(3)
    read = vectors(rng)
    assert span_of([rows(rng, read, 1e4, 1e4)], RANK) is None


def test_rows_that_span_everything_or_too_little_tell_nothing() -> None:
    rng = np.random.default_rng(4)
    assert span_of([rows(rng, rng.standard_normal((WIDTH, WIDTH)), 1e-6, 1e-6)], None) is None
    assert span_of([rows(rng, vectors(rng), 1e-6, 1e-6, count=RANK)], RANK) is None
