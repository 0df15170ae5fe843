"""Shamir's secret sharing of whole keys, many at a time (Shamir, *How to share a secret*, 1979)."""

from collections.abc import Sequence

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import Elements, lagrange_matrix, matmul, multiply, secret_elements

__all__ = ["recovered", "shares_of"]

_LIMB = np.dtype("<u2")  # 16 bits of a secret an element: whole bytes, and far below the prime


def shares_of(
    secrets: Sequence[bytes], threshold: int, points: Elements, noise: Elements | None = None
) -> Elements:
    """`(points, secrets, limbs)`: at each point one share of every secret; secrets are of one even length.

    Any `threshold` shares give the secrets back, fewer are uniform whatever they are. Points are distinct
    and not zero. `noise` are the polynomials' higher coefficients, `(threshold - 1, secrets * limbs)`, for
    tests; by default the operating system's randomness.
    """
    limbs = np.frombuffer(b"".join(secrets), _LIMB).astype(np.int64)
    if noise is None:
        noise = secret_elements((threshold - 1, limbs.size))
    shares = matmul(_powers(points, threshold), np.vstack([limbs, noise]))
    return shares.reshape(len(points), len(secrets), -1)


def recovered(points: Elements, shares: Elements) -> list[bytes]:
    """The secrets, from `(points, secrets, limbs)`: as many shares as the threshold, or more.

    Raises:
        SecureAggregationError: where the shares are of no bytes, as wrong ones nearly always are.
    """
    flat = shares.reshape(len(points), -1)
    limbs = matmul(lagrange_matrix(points, np.zeros(1, np.int64)), flat).reshape(shares.shape[1:])
    if limbs.size and limbs.max() >= 2 ** (8 * _LIMB.itemsize):
        raise SecureAggregationError(
            f"shares at points {points.tolist()} give no secret back: one of them is wrong, or of another one"
        )
    return [secret.astype(_LIMB).tobytes() for secret in limbs]


def _powers(points: Elements, count: int) -> Elements:
    """`(points, count)`: each point to the power 0, 1, ..."""
    powers = np.ones((len(points), count), np.int64)
    for column in range(1, count):
        powers[:, column] = multiply(powers[:, column - 1], points)
    return powers
