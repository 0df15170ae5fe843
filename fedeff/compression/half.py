"""Half: sixteen bits a value, as float16 or bfloat16."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_one_of
from fedeff.compression.floats import extent, flat_floats, float_dtype, size_of
from fedeff.compression.reading import nothing_left, read_values
from fedeff.core.errors import CodecError

__all__ = ["Half"]

_INFINITE = 0x7F80  # bfloat16's exponent bits


@dataclass(frozen=True)
class Half:
    """The nearest float16 (11 significant bits, up to 65504) or bfloat16 (8 bits, float32's range).

    Rounding is to nearest even, so the error is at most 2^-11 or 2^-8 of the value but not zero in
    the mean. Not good for much: half the bytes, where `Uniform(4)` sends an eighth.
    """

    format: str = "float16"
    name: ClassVar[str] = "half"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_one_of("half's format", self.format, ("float16", "bfloat16"))

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """Two bytes a value. Raises `CodecError` where a value is beyond the format's range."""
        flat = flat_floats(x)
        low, high = extent(flat)
        with np.errstate(over="ignore"):
            halves = flat.astype("<f2") if self.format == "float16" else _to_bfloat16(flat)
        if _any_infinite(halves):
            raise CodecError(f"the values, {low:.3g} to {high:.3g}, are out of {self.format}'s range")
        return halves.tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The values in the array's own type."""
        dtype = float_dtype(dtype)
        stored = np.dtype("<f2" if self.format == "float16" else "<u2")
        halves, rest = read_values(memoryview(payload), size_of(shape), stored)
        nothing_left(rest)
        if _any_infinite(halves):
            raise CodecError("the payload holds NaN or infinite values, which no codec writes")
        if stored.kind == "u":
            halves = (halves.astype("<u4") << 16).view("<f4")
            if dtype.itemsize == 2:  # 65504 becomes 65536 on the way through bfloat16
                halves = np.clip(halves, -65504, 65504)
        return halves.astype(dtype).reshape(shape), {}


def _to_bfloat16(flat: NDArray) -> NDArray:
    bits = flat.astype("<f4").view("<u4")
    nearest_even = 0x7FFF + (bits >> 16 & 1)
    rounded: NDArray = (bits + nearest_even) >> 16
    return rounded.astype("<u2")


def _any_infinite(halves: NDArray) -> bool:
    if halves.dtype.kind == "f":
        return not bool(np.isfinite(halves).all())
    return bool(np.any(np.equal(halves & _INFINITE, _INFINITE)))
