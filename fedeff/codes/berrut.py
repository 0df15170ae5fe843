"""Berrut's rational interpolant as a code: every answer approximate, from however many came."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.linear import Matrix, check_sizes, combine

__all__ = ["Berrut", "berrut_matrix", "input_points", "worker_points"]


@dataclass(frozen=True)
class Berrut:
    """Inputs are values of a rational function at `k` points, and workers compute F of its values elsewhere.

    BACC (Jahani-Nezhad & Maddah-Ali, arXiv:2009.08327) and ApproxIFER without its search for liars
    (Soleymani et al., arXiv:2109.09868): both sides interpolate by Berrut's rational function, which has
    no poles on the line. No threshold and no training, for any F, the smoother the better; but no
    answer is exact, not even with all of them here or a linear F, except where a worker's point is an
    input's. On a network's answers a learned code is far ahead.
    """

    k: int
    r: int
    systematic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sizes("Berrut", self.k, self.r)

    def encode(self, inputs: NDArray) -> NDArray:
        """The interpolant through the inputs at the workers' points, `(k + r, ...)`."""
        check_inputs(self, inputs)
        return combine(berrut_matrix(input_points(self.k), worker_points(self.k + self.r)), inputs)

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The interpolant through the outputs that came, at the inputs' points.

        Quality is 1 where a worker that came held just that input, else not a number: not measured.
        """
        check_outputs(self, outputs, mask)
        matrix = berrut_matrix(worker_points(self.k + self.r)[mask], input_points(self.k))
        # One weight alone is a coincidence of points, unless there is but one output to weigh.
        exact = ((matrix != 0).sum(axis=1) == 1) & (mask.sum() > 1)
        return Decoded(combine(matrix, outputs[mask]), np.where(exact, 1.0, np.nan))

    def decodable(self, mask: NDArray) -> bool:
        """Whether anything came."""
        return bool(mask.any())


def input_points(k: int) -> Matrix:
    """`cos((2 j + 1) pi / 2 k)`: Chebyshev points of the first kind, falling."""
    points: Matrix = np.cos((2 * np.arange(k) + 1) * np.pi / (2 * k))
    return points


def worker_points(n: int) -> Matrix:
    """`cos(i pi / (n - 1))`: Chebyshev points of the second kind, falling from 1 to -1."""
    points: Matrix = np.cos(np.arange(n) * np.pi / max(n - 1, 1))
    return points


def berrut_matrix(from_points: Matrix, to_points: Matrix) -> Matrix:
    """`(to, from)` weights, each row with sum one, of Berrut's interpolant through values at `from_points`.

    `r(z) = sum_j (-1)^j / (z - a_j) y_j / sum_j (-1)^j / (z - a_j)`, where j counts those that are there:
    without alternation between neighbours it would have poles. `from_points` are in order and distinct.
    A point that coincides with one of them up to rounding has its value.
    """
    distance = to_points[:, None] - from_points
    same = np.abs(distance) < 1e-12  # neighbours of 10,000 Chebyshev points are 5e-8 apart
    met = same.any(axis=1)
    distance[met] = np.where(same[met], 1.0, np.inf)
    weights = (-1.0) ** np.arange(len(from_points)) / distance
    normalised: Matrix = weights / weights.sum(axis=1, keepdims=True)
    return normalised
