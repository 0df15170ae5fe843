"""LightSecAgg's coded masks (So et al., arXiv:2109.14236, section 4): shares that add up as masks do."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import Elements, lagrange_matrix, matmul
from fedeff.secure.terms import Terms

__all__ = ["mask_shares", "mask_sum", "piece_length"]


def piece_length(size: int, terms: Terms) -> int:
    """Elements of a share of a mask of `size` elements: `size / (U - T)`, rounded up."""
    return -(-size // terms.piece_count)


def mask_shares(mask: Elements, noise: Elements, terms: Terms, receivers: Sequence[int]) -> Elements:
    """`(receivers, piece_length)`: the share of the mask for each client.

    The mask in `U - T` pieces and the `T` rows of `noise`, `(T, piece_length)`, are the values at
    `N + 1 .. N + U` of one polynomial; client `j`, from 1, gets its value at `j` (eq. 5). Any U shares give
    the mask, any T of them are uniform.
    """
    length = piece_length(mask.size, terms)
    rows = np.zeros((terms.threshold, length), np.int64)
    rows[: terms.piece_count].reshape(-1)[: mask.size] = mask
    rows[terms.piece_count :] = noise
    return matmul(_weights(_rows(terms), tuple(receivers)), rows)


def mask_sum(holders: Sequence[int], sums: Elements, size: int, terms: Terms) -> Elements:
    """The sum of masks, `(size,)`, from `(holders, piece_length)` sums of shares of at least U clients.

    Those beyond U are not needed; they check the others.

    Raises:
        SecureAggregationError: for fewer, or where one beyond U does not fit.
    """
    needed = terms.threshold
    if len(holders) < needed:
        raise SecureAggregationError(
            f"{len(holders)} clients told their sums of shares, expected at least {needed}"
        )
    known, others = tuple(holders[:needed]), tuple(holders[needed:])
    if others and not np.array_equal(matmul(_weights(known, others), sums[:needed]), sums[needed:]):
        raise SecureAggregationError(
            f"the sums of shares of {len(holders)} clients do not fit together: one of them is wrong; "
            "the round's sum is refused"
        )
    pieces = matmul(_weights(known, _rows(terms)[: terms.piece_count]), sums[:needed])
    return pieces.reshape(-1)[:size]


def _rows(terms: Terms) -> tuple[int, ...]:
    """Where the polynomial has the pieces and then the noise."""
    return tuple(range(terms.clients + 1, terms.clients + terms.threshold + 1))


@lru_cache(maxsize=64)
def _weights(from_points: tuple[int, ...], to_points: tuple[int, ...]) -> Elements:
    """Kept: all clients of a session in one process encode by the same matrix."""
    return lagrange_matrix(np.array(from_points), np.array(to_points, np.int64))
