"""What every codec asks of an array: floats, finite, flat; and the type it computes in."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import NDArray, Shape
from fedeff.core.errors import CodecError

__all__ = ["CHUNK", "chunks", "computing_dtype", "extent", "flat_floats", "float_dtype", "size_of"]

CHUNK = 1 << 15
"""Values worked on at a time: with their temporaries they stay in a core's cache."""


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The little-endian form of a float type; raises `CodecError` on any other type."""
    found = np.dtype(dtype).newbyteorder("<")
    if found.kind != "f" or found.itemsize > 8:
        raise CodecError(f"the array is of {found.name}; codecs take float16, float32 and float64")
    return found


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type a codec computes in: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def flat_floats(x: NDArray) -> NDArray:
    """`x` as one contiguous little-endian row; raises `CodecError` unless it is of floats."""
    return np.ascontiguousarray(x, dtype=float_dtype(x.dtype)).reshape(-1)


def extent(flat: NDArray) -> tuple[float, float]:
    """The least and the greatest value, 0 and 0 of none; raises `CodecError` on NaN or infinity."""
    if not flat.size:
        return 0.0, 0.0
    low, high = float(flat.min()), float(flat.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(flat)))
        raise CodecError(f"{bad} of {flat.size} values are NaN or infinite; only finite values are coded")
    return low, high


def chunks(size: int) -> Iterator[slice]:
    """Slices of at most `CHUNK` that cover `size` values in order."""
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def size_of(shape: Shape) -> int:
    """How many values an array of this shape holds."""
    return math.prod(shape)
