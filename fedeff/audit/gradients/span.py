"""The span of the rows of a matrix that is known but for noise, and whether vectors lie in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedeff.audit.view import NDArray

__all__ = ["Rows", "Span", "span_of"]

_ROUNDING = 5e-6  # of a vector's length: how far float32 moves what a client's layers read
_EDGE = 1.2  # singular values so far above the largest that noise gives are signal
_SURE = 5.0  # standard deviations of the length of noise
_UNEVEN = 2.0  # parts whose noise differs by more than this factor are weighed anew
_WEIGHINGS = 4  # the loudest part's noise tilts the directions by which the others' is measured
_TELLING = 0.25  # of the distance of an unrelated vector: a tolerance above it tells nothing


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows (m, width) that are known, and the standard deviation (m,) of an entry of each."""

    values: NDArray
    std: NDArray


@dataclass(frozen=True, eq=False)
class Span:
    """Orthonormal `directions` (rank, width), each with a `strength`: its singular value by the noise.

    `slack` widens the tolerance for errors that are not random.
    """

    directions: NDArray
    strengths: NDArray
    slack: float = 1.0

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.strengths)

    def misfit(self, x: NDArray) -> NDArray:
        """The distance (n,) of vectors (n, width) from the span, by what noise would make of it.

        At most 1 for a vector that can be in the span; infinite where the noise lets nothing be said. To
        first order noise turns direction i by its std over the singular value i, towards each of the
        others; what remains of a vector of the span is that, times its part along i. Over many others its
        length hardly varies: by a share of one over the root of twice their number.
        """
        along = x @ self.directions.T
        left = np.linalg.norm(x - along @ self.directions, axis=1)
        size, others = np.linalg.norm(x, axis=1), self.directions.shape[1] - self.rank
        turned = np.linalg.norm(along / self.strengths, axis=1) * math.sqrt(others)
        sure = self.slack * (1 + _SURE / math.sqrt(2 * others))
        tolerance = np.hypot(sure * turned, _ROUNDING * size)
        telling = tolerance <= _TELLING * size * math.sqrt(others / self.directions.shape[1])
        return np.where(telling, left / np.maximum(tolerance, 1e-300), np.inf)


def span_of(parts: Sequence[Rows], most: int | None, slack: float = 1.0) -> Span | None:
    """The span of all these rows, which is of at most `most` vectors (None: nobody says).

    Rows are divided by their deviation first. With `most` below the width the noise is what is left beyond
    so many singular values, of each part, whatever was told of it. None where the rows span all there is,
    where they are too few to be sure of the whole span, or where nothing rises above the noise.
    """
    values = np.concatenate([one.values / one.std[:, None] for one in parts])
    count, width = values.shape
    _, strengths, directions = np.linalg.svd(values, full_matrices=False)
    noise, bound = 1.0, len(strengths)
    if most is not None and most < min(count, width):
        counts = [len(one.values) for one in parts]
        for _ in range(_WEIGHINGS):
            noises = _noises(values, counts, directions[most:], most)
            if noises.max() <= _UNEVEN * noises.min():
                break
            values = values / noises[:, None]
            _, strengths, directions = np.linalg.svd(values, full_matrices=False)
        rest = (count - most) * (width - most)
        noise, bound = float(np.sqrt(np.square(strengths[most:]).sum() / rest)), most
    noise = max(noise, 1e-15 * float(strengths[0]))
    rank = int((strengths[:bound] > _EDGE * noise * (math.sqrt(count) + math.sqrt(width))).sum())
    if not 0 < rank < min(count, width - 1):
        return None
    return Span(directions[:rank], strengths[:rank] / noise, slack)


def _noises(values: NDArray, counts: Sequence[int], beyond: NDArray, most: int) -> NDArray:
    """The standard deviation of each row's part of the rows, along directions of noise alone."""
    free = (1 - most / len(values)) * (values.shape[1] - most)
    energies = np.square(values @ beyond.T).sum(axis=1)
    bounds = np.cumsum([0, *counts[:-1]])
    found = np.sqrt(np.add.reduceat(energies, bounds) / (np.asarray(counts) * free))
    return np.repeat(np.maximum(found, 1e-15 * np.linalg.norm(values)), counts)
