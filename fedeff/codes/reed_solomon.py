"""Which of many evaluations of a polynomial over the prime field are wrong."""

import functools

import numpy as np

from fedeff.core.errors import CodeError
from fedeff.core.field import (
    Elements,
    add,
    inverse,
    matmul,
    multiply,
    null_vector,
    subtract,
)

__all__ = ["trusted_workers"]


def trusted_workers(points: Elements, answers: Elements, coefficients: int, errors: int) -> Elements:
    """Indices of the workers whose answers are one polynomial's, in each column of `(workers, d)`.

    `points`, one for each worker, are distinct, and polynomials have at most this many `coefficients`.
    Workers are wrong as a whole: one whose answer does not fit in some column is left out of all. At most
    `errors` are; with `coefficients + 2 errors` workers or more that is unique. Berlekamp-Welch decoding
    (as in arXiv:1806.00939, section IV), here by Peterson's equations on syndromes, in a column for each
    liar found. No randomness: nobody can prepare lies that it does not look at.

    Raises:
        CodeError: if more than `errors` would have to be left out, or it cannot be said which.
    """
    trusted = np.arange(len(points))
    while True:
        left = errors - (len(points) - len(trusted))
        checks = _checks(tuple(points[trusted].tolist()), coefficients)
        syndromes = matmul(checks, answers[trusted])
        wrong = np.flatnonzero(syndromes.any(axis=0))
        if not wrong.size:
            return trusted
        liars = _liars(points[trusted], syndromes[:, wrong[0]], left)
        trusted = np.delete(trusted, liars)


@functools.lru_cache(maxsize=512)
def _checks(at: tuple[int, ...], coefficients: int) -> Elements:
    """`(workers - coefficients, workers)`: maps what are a polynomial's values, and only those, to zero."""
    points = np.array(at)
    others = subtract(points[:, None], points)
    np.fill_diagonal(others, 1)
    scale = np.ones_like(points)
    for column in others.T:
        scale = multiply(scale, column)
    row, rows = inverse(scale), list[Elements]()
    for _ in range(len(points) - coefficients):
        rows.append(row)
        row = multiply(row, points)
    return np.array(rows, np.int64).reshape(len(rows), len(points))


def _liars(points: Elements, syndromes: Elements, errors: int) -> Elements:
    """Which answers of one column are wrong: the roots of the shortest polynomial that explains it.

    With `e` errors, and for no smaller number, there is a polynomial E of degree `e` with
    `sum_s E_s S_(t+s) = 0` for every t, and its roots are the points of the errors.
    """
    for count in range(1, min(errors, len(syndromes) // 2) + 1):
        windows = np.lib.stride_tricks.sliding_window_view(syndromes, count + 1)
        locator = null_vector(windows)
        if locator is None:
            continue
        roots = np.flatnonzero(_evaluate(locator, points) == 0)
        if len(roots) == count:
            return roots
        break
    raise CodeError(
        f"answers are no polynomial's, and leaving out {errors} does not make them so; "
        "wait for more answers, raise `byzantine`, or check the degree"
    )


def _evaluate(polynomial: Elements, points: Elements) -> Elements:
    """Its values, coefficients from the constant on (Horner)."""
    values = np.zeros_like(points)
    for coefficient in polynomial[::-1]:
        values = add(multiply(values, points), np.full_like(points, coefficient))
    return values
