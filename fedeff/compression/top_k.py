"""Top-k: the entries of largest magnitude, as they are."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_fraction
from fedeff.compression.floats import computing_dtype, extent, flat_floats, float_dtype, size_of
from fedeff.compression.positions import pack_positions, unpack_positions
from fedeff.compression.reading import nothing_left, read_values

__all__ = ["TopK", "kept_count"]


@dataclass(frozen=True)
class TopK:
    """The `fraction` of an array's entries that is largest by magnitude, as they are.

    Aji & Heafield, arXiv:1704.05021. Biased: use it under `ErrorFeedback` unless rounds are few.
    Positions cost about `log2(1 / fraction) + 1.5` bits each, less than the 32 of a value: see
    `Chain`. Of equal magnitudes the first are kept, so equal arrays give equal bytes.
    """

    fraction: float  # of the entries, in (0, 1]; at least one entry is kept
    name: ClassVar[str] = "top_k"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", check_fraction("top_k's fraction", self.fraction))

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def select(self, x: NDArray, rng: np.random.Generator) -> tuple[bytes, NDArray]:
        """The coded positions, and the values at them."""
        flat = flat_floats(x)
        extent(flat)
        positions = _largest(flat, kept_count(flat.size, self.fraction))
        return pack_positions(positions, flat.size), flat[positions]

    def kept(self, payload: memoryview, size: int) -> tuple[NDArray, int, memoryview]:
        """The positions, how many, and the rest of the payload."""
        count = kept_count(size, self.fraction)
        positions, rest = unpack_positions(payload, count, size)
        return positions, count, rest

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The coded positions, and the values at them in the array's type."""
        positions, values = self.select(x, rng)
        return positions + values.tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The kept values at their positions, zeros elsewhere."""
        dtype = float_dtype(dtype)
        positions, count, rest = self.kept(memoryview(payload), size_of(shape))
        values, rest = read_values(rest, count, dtype)
        nothing_left(rest)
        found = np.zeros(size_of(shape), dtype)
        found[positions] = values
        return found.reshape(shape), {}


def kept_count(size: int, fraction: float) -> int:
    """How many of `size` entries are kept: at least one, of none none."""
    return min(max(round(fraction * size), 1), size)


def _largest(flat: NDArray, count: int) -> NDArray:
    """The ascending positions of the `count` largest magnitudes, the first of equal ones."""
    if not count:
        return np.zeros(0, np.int64)
    magnitudes = np.abs(flat, dtype=computing_dtype(flat.dtype))
    least = np.partition(magnitudes, flat.size - count)[flat.size - count]
    found = np.flatnonzero(magnitudes >= least)
    if found.size > count:
        equal = np.flatnonzero(magnitudes[found] == least)
        found = np.delete(found, equal[count - found.size :])
    return found
