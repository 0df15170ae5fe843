"""Uniform: evenly spaced levels from the least value to the greatest, right in the mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.digits import pack_digits, unpack_digits
from fedeff.compression.fields import check_whole
from fedeff.compression.floats import extent, flat_floats, float_dtype, size_of
from fedeff.compression.reading import nothing_left, read_values
from fedeff.compression.rounding import digits_to_values, levels_between, stochastic_digits
from fedeff.core.errors import CodecError

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """`2^bits` levels from the least to the greatest value, stochastically rounded (arXiv:1611.00429).

    Unbiased. The error is of the order of the range, which one outlier sets: for heavy tails take
    `TernGrad`, which clips, or `QSGD`, which scales bucket by bucket. Zero need not be a level.
    """

    bits: int = 8
    name: ClassVar[str] = "uniform"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("uniform's bits", self.bits, 1, 8)

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The least and the greatest value in the array's type, and `bits` bits a value."""
        flat = flat_floats(x)
        low, high = extent(flat)
        digits = stochastic_digits(flat, *_centre_and_half(low, high), 2**self.bits - 1, rng)
        ends = np.array([low, high], flat.dtype)
        return ends.tobytes() + pack_digits(digits, 2**self.bits), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The levels."""
        dtype = float_dtype(dtype)
        ends, rest = read_values(memoryview(payload), 2, dtype)
        low, high = float(ends[0]), float(ends[1])
        if low > high:
            raise CodecError(f"the payload's range goes from {low} down to {high}")
        digits, rest = unpack_digits(rest, size_of(shape), 2**self.bits)
        nothing_left(rest)
        levels = levels_between(*_centre_and_half(low, high), 2**self.bits - 1, dtype)
        return digits_to_values(digits, levels).reshape(shape), {}


def _centre_and_half(low: float, high: float) -> tuple[float, float]:
    """Middle and half width, halved first: the width itself may be beyond the largest float."""
    return high / 2 + low / 2, high / 2 - low / 2
