"""What codes of linear combinations share: sizes, and sums that are taken in float64."""

from typing import Any

import numpy as np

from fedeff.core.errors import CodeError, ConfigError

__all__ = ["check_sizes", "check_whole", "combine"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Matrix = np.ndarray[Any, np.dtype[np.float64]]


def check_sizes(code: str, k: int, r: int) -> None:
    """Raises a `ConfigError` unless a group can have `k` inputs and `r` tasks beyond them."""
    check_whole(code, "k", k, 1)
    check_whole(code, "r", r, 0)


def check_whole(code: str, name: str, number: object, least: int) -> None:
    """Raises a `ConfigError` unless this is a whole number from `least`."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ConfigError(f"{code}: {name} is {number!r}, expected a whole number from {least}")


def combine(matrix: Matrix, arrays: NDArray) -> NDArray:
    """Row i of the answer is `sum_j matrix[i, j] * arrays[j]`, of any trailing shape, in the arrays' dtype.

    Summed in float64 and rounded once: what the wire loses is one rounding of its own type.

    Raises:
        CodeError: unless these are floats, which alone have combinations with real weights.
    """
    if not np.issubdtype(arrays.dtype, np.floating):
        raise CodeError(f"arrays of {arrays.dtype}, expected floats; convert them, for instance to float32")
    summed = np.tensordot(matrix, arrays.astype(np.float64, copy=False), axes=1)
    return summed.astype(arrays.dtype, copy=False)
