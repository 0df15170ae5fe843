"""Raw: the values as they are."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.floats import extent, size_of
from fedeff.compression.reading import nothing_left, read_values
from fedeff.core.errors import CodecError

__all__ = ["Raw"]

_KINDS = "biuf"


@dataclass(frozen=True)
class Raw:
    """The array's own little-endian bytes: what is exempt from coding, and all integers and booleans."""

    name: ClassVar[str] = "raw"
    linear: ClassVar[bool] = True

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The bytes of the values, and nothing to remember; other than most codecs, of any plain type."""
        dtype = _plain(x.dtype)
        if dtype.kind == "f":
            extent(x)
        return np.ascontiguousarray(x, dtype).tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """A copy of the values."""
        plain = _plain(np.dtype(dtype))
        stored = np.dtype(np.uint8) if plain.kind == "b" else plain
        values, rest = read_values(memoryview(payload), size_of(shape), stored)
        nothing_left(rest)
        if plain.kind == "b" and values.size and values.max() > 1:
            raise CodecError("the payload of a boolean array has bytes other than 0 and 1")
        return values.astype(plain).reshape(shape), {}


def _plain(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise CodecError(f"the array is of {dtype.name}; what travels is booleans, integers and floats")
    return dtype.newbyteorder("<")
