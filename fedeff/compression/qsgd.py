"""QSGD: a few levels on either side of zero, scaled bucket by bucket, right in the mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.digits import pack_digits, unpack_digits
from fedeff.compression.fields import check_one_of, check_whole
from fedeff.compression.floats import (
    chunks,
    computing_dtype,
    extent,
    flat_floats,
    float_dtype,
    size_of,
)
from fedeff.compression.positions import pack_positions, unpack_positions
from fedeff.compression.reading import nothing_left, read_values, read_varint, split, varint
from fedeff.compression.rounding import dither
from fedeff.core.errors import CodecError

__all__ = ["QSGD"]

_DENSE, _SPARSE = 0, 1


@dataclass(frozen=True)
class QSGD:
    """`norm * sign(x) * level / levels`, the level stochastically rounded.

    Alistarh et al., arXiv:1610.02132. `norm` is each bucket's Euclidean norm as in the paper (section
    3.1), which makes most levels zero, or its largest magnitude (`"max"`), which the paper's
    experiments use: less variance, more bits. Unbiased. The variance grows with `sqrt(bucket) /
    levels` times the square of the norm (lemma 3.1), so large buckets need many levels.

    The wire form is the shorter of two: every level as a digit of base `2 * levels + 1`, or, in
    the spirit of the paper's Elias code, the positions of levels other than zero and those levels.
    """

    levels: int = 7  # on either side of zero
    bucket: int = 512  # values that share a norm; 0 is the whole array
    norm: str = "l2"
    name: ClassVar[str] = "qsgd"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("qsgd's levels", self.levels, 1, 127)
        check_whole("qsgd's bucket", self.bucket, 0, 2**31)
        check_one_of("qsgd's norm", self.norm, ("l2", "max"))

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """A byte for the form, every bucket's norm in the array's type, the levels."""
        flat = flat_floats(x)
        extent(flat)
        norms = self._norms(flat)
        digits = self._digits(flat, norms, rng)
        dense = bytes([_DENSE]) + norms.tobytes() + pack_digits(digits, 2 * self.levels + 1)
        positions = np.flatnonzero(digits != self.levels)
        if 2 * positions.size > digits.size:
            return dense, {}
        sparse = bytes([_SPARSE]) + norms.tobytes() + self._pack_sparse(digits, positions)
        return min(dense, sparse, key=len), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The levels, times their bucket's norm."""
        dtype, size = float_dtype(dtype), size_of(shape)
        head, rest = split(memoryview(payload), 1, "form")
        norms, rest = read_values(rest, -(-size // self._bucket(size)), dtype)
        if norms.size and norms.min() < 0:
            raise CodecError("the payload has a negative norm")
        if head[0] not in (_DENSE, _SPARSE):
            raise CodecError(f"the payload's form is {head[0]}; it is {_DENSE} (dense) or {_SPARSE} (sparse)")
        if head[0] == _DENSE:
            digits, rest = unpack_digits(rest, size, 2 * self.levels + 1)
        else:
            digits, rest = self._unpack_sparse(rest, size)
        nothing_left(rest)
        return self._values(digits, norms).reshape(shape), {}

    def _bucket(self, size: int) -> int:
        return max(min(self.bucket or size, size), 1)

    def _norms(self, flat: NDArray) -> NDArray:
        """Every bucket's norm, at most the type's largest number: that is still no less than any value."""
        starts = np.arange(0, flat.size, self._bucket(flat.size))
        if not flat.size:
            return flat
        if self.norm == "max":
            return np.maximum.reduceat(np.abs(flat), starts)
        with np.errstate(over="ignore"):
            squares = np.square(flat, dtype=np.float64)
            norms = np.sqrt(np.add.reduceat(squares, starts))
        return np.minimum(norms, float(np.finfo(flat.dtype).max)).astype(flat.dtype)

    def _digits(self, flat: NDArray, norms: NDArray, rng: np.random.Generator) -> NDArray:
        dtype, bucket = computing_dtype(flat.dtype), self._bucket(flat.size)
        divisors = np.where(norms == 0, norms.dtype.type(1), norms)
        digits = np.empty(flat.size, np.uint8)
        for part in chunks(flat.size):
            unit = np.divide(flat[part], _spread(divisors, bucket, part), dtype=dtype)
            np.clip(unit, -1, 1, out=unit)
            dither(unit, 2 * self.levels, rng, digits[part])
        return digits

    def _values(self, digits: NDArray, norms: NDArray) -> NDArray:
        bucket = self._bucket(digits.size)
        values = np.empty(digits.size, norms.dtype)
        parts = (np.arange(2 * self.levels + 1) - self.levels) / self.levels
        shares = parts.astype(computing_dtype(norms.dtype))
        for part in chunks(digits.size):
            share = np.take(shares, digits[part], mode="clip")
            np.multiply(share, _spread(norms, bucket, part), out=values[part], casting="same_kind")
        return values

    def _pack_sparse(self, digits: NDArray, positions: NDArray) -> bytes:
        found = digits[positions]
        without_zero = found - (found > self.levels)
        placed = varint(positions.size) + pack_positions(positions, digits.size)
        return placed + pack_digits(without_zero, 2 * self.levels)

    def _unpack_sparse(self, payload: memoryview, size: int) -> tuple[NDArray, memoryview]:
        count, rest = read_varint(payload, "count")
        positions, rest = unpack_positions(rest, count, size)
        found, rest = unpack_digits(rest, count, 2 * self.levels)
        digits: NDArray = np.full(size, self.levels, np.uint8)
        digits[positions] = found + (found >= self.levels)
        return digits, rest


def _spread(norms: NDArray, bucket: int, part: slice) -> NDArray:
    """The norm of every value of the part."""
    first, last = part.start // bucket, (part.stop - 1) // bucket
    counts = np.full(last - first + 1, bucket)
    counts[-1] = part.stop - last * bucket
    counts[0] -= part.start - first * bucket
    return np.repeat(norms[first : last + 1], counts)
