"""What somebody without the update gets: guesses from public rows, the bar that an attack must clear."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.audit.judging.metrics import matched, psnr_table, token_table
from fedeff.audit.judging.trial import LABELS_TOLD_F1
from fedeff.core.errors import AuditError

__all__ = [
    "FEWEST_PUBLIC_ROWS",
    "PUBLIC_ROWS",
    "Floor",
    "floor_psnr_db",
    "floor_tokens",
    "guess_from",
    "labels_chance",
]

NDArray = np.ndarray[Any, np.dtype[Any]]

PUBLIC_ROWS = 100
FEWEST_PUBLIC_ROWS = 10  # the mean of fewer shows them


@dataclass(frozen=True, eq=False)
class Floor:
    """Two guesses at any row, of the shape of one input: the prior's mean, and one public row.

    For tokens the mean is the most frequent token at each place.
    """

    mean: NDArray
    typical: NDArray


def guess_from(public_rows: NDArray) -> Floor:
    """The guesses from at most 100 public rows (n, *input_shape), chosen without looking at the truth.

    `typical` is the row nearest to the mean, and so to all the others together: the best that can be picked
    before anything of the victim is seen. To pick the row nearest to the truth one would have to know it.
    """
    if len(public_rows) < FEWEST_PUBLIC_ROWS:
        raise AuditError(
            f"{len(public_rows)} public rows to guess from; give {FEWEST_PUBLIC_ROWS} to {PUBLIC_ROWS} "
            "that the victims did not train on"
        )
    rows = public_rows[:PUBLIC_ROWS]
    if rows.dtype.kind in "iu":
        return _guess_tokens(rows)
    mean = rows.mean(axis=0, dtype=float)
    apart = ((rows - mean) ** 2).sum(axis=tuple(range(1, rows.ndim)))
    return Floor(mean, rows[int(apart.argmin())].astype(float))


def _guess_tokens(rows: NDArray) -> Floor:
    usual = np.array([np.bincount(place).argmax() for place in rows.T], rows.dtype)
    alike = [int((rows == row).sum()) for row in rows]
    return Floor(usual, rows[int(np.argmax(alike))])


def floor_psnr_db(floor: Floor, truth: NDArray, peak: float = 1.0) -> NDArray:
    """The PSNR of the better guess with each true row (m, ...), in dB, shape (m,)."""
    return np.asarray(psnr_table(np.stack([floor.mean, floor.typical]), truth, peak).max(axis=0))


def floor_tokens(floor: Floor, truth: NDArray) -> float:
    """The share of exact tokens of the better guess, repeated for every true row (m, length)."""
    shares = []
    for guess in (floor.mean, floor.typical):
        table = token_table(np.repeat(guess[None], len(truth), axis=0), truth)
        shares.append(sum(table[row, column] for column, row in enumerate(matched(table)) if row is not None))
    return float(max(shares) / truth.size)


def labels_chance(labels: NDArray, rows: int, rng: np.random.Generator, draws: int = 400) -> float:
    """How often a guess at the labels of `rows` rows is as good as one that counts as told.

    Bags are drawn from public `labels` (n,) or (n, length); the guesses are their shares, and the most
    frequent label over and over. An estimate that is never 0: one more than was seen.
    """
    classes = int(labels.max()) + 1
    shares = np.bincount(labels.ravel(), minlength=classes) / labels.size
    total = rows * (labels.size // len(labels))
    guesses = (_in_proportion(shares, total), total * (np.arange(classes) == shares.argmax()))
    drawn = labels[rng.integers(len(labels), size=(draws, rows))].reshape(draws, -1)
    bags = np.stack([np.bincount(bag, minlength=classes) for bag in drawn])
    told = [(np.minimum(bags, guess).sum(axis=1) / total >= LABELS_TOLD_F1).sum() for guess in guesses]
    return float((1 + max(told)) / (1 + draws))


def _in_proportion(shares: NDArray, total: int) -> NDArray:
    """Whole counts of this total, as near to the shares as they get (largest remainders)."""
    counts = np.floor(shares * total)
    rest = np.argsort(counts - shares * total, kind="stable")[: total - int(counts.sum())]
    counts[rest] += 1
    return np.asarray(counts)
