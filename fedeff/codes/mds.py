"""Systematic MDS over floats: any `k` of `n` answers of a linear function give all."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.linear import Matrix, check_sizes, combine
from fedeff.codes.parity_search import find_parity, worst_condition

__all__ = ["MDS"]


@dataclass(frozen=True)
class MDS:
    """Parities are weighted sums of the inputs, such that any `k` of the `k + r` tasks have all of them.

    Exact up to rounding for functions that are linear, and for affine ones such as a layer with a bias too,
    since each parity's weights sum to one; wrong for all others. Rounding is amplified by up to
    `worst_condition`, relative to the largest answer of the group; it grows exponentially in `r`
    (7 at k = 4, r = 2; 33 at k = 10, r = 2; 1,752 at k = 10, r = 5), so for an `r` beyond 8 send float64,
    and beyond 15 do not use it. Common sizes with seed 0 have a parity matrix that was searched for at
    length; others search for a few seconds when first used.
    """

    k: int
    r: int
    seed: int = 0
    systematic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes("MDS", self.k, self.r)

    @property
    def parity(self) -> Matrix:
        """The weights, `(r, k)` and read-only; each row sums to one."""
        return find_parity(self.k, self.r, self.seed)

    @property
    def worst_condition(self) -> float:
        """The largest condition number over patterns; see `parity_search.worst_condition`."""
        return _worst_condition(self.k, self.r, self.seed)

    def encode(self, inputs: NDArray) -> NDArray:
        """The weighted sums, `(r, ...)`, in the inputs' dtype."""
        check_inputs(self, inputs)
        return combine(self.parity, inputs)

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The originals that came, as they are; the others by least squares over all parities that came.

        Raises:
            CodeError: also for outputs that are no floats.
        """
        check_outputs(self, outputs, mask)
        values, own = outputs[: self.k].copy(), mask[: self.k]
        if not own.all():
            values[~own] = combine(_solving(self.parity, mask), outputs[mask])
        return Decoded(values, np.ones(self.k))

    def decodable(self, mask: NDArray) -> bool:
        """Whether `k` outputs came."""
        return int(mask.sum()) >= self.k


def _solving(parity: Matrix, mask: NDArray) -> Matrix:
    """From the outputs that came, in their order, the inputs that are missing: `(missing, came)`."""
    k = parity.shape[1]
    own, came = mask[:k], parity[mask[k:]]
    inverse = np.linalg.pinv(came[:, ~own])
    return np.hstack([-inverse @ came[:, own], inverse])


@functools.cache
def _worst_condition(k: int, r: int, seed: int) -> float:
    return worst_condition(find_parity(k, r, seed))
