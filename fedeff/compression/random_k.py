"""Random-k: entries drawn from a seed that travels in place of their positions."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_fraction, check_one_of
from fedeff.compression.floats import extent, flat_floats, float_dtype, size_of
from fedeff.compression.masks import read_kept, write_kept
from fedeff.compression.reading import nothing_left, read_values, split
from fedeff.compression.top_k import kept_count
from fedeff.core.errors import CodecError

__all__ = ["RandomK"]

_SEED_BYTES = 8
_DRAWS = 1 << 16  # positions drawn at a time


@dataclass(frozen=True)
class RandomK:
    """A `fraction` of an array's entries, drawn uniformly (Stich et al., arXiv:1809.07599).

    Scaled by size / count it is unbiased, at `1 / fraction - 1` times the variance; `unbiased=False`
    sends entries as they are, which is what `ErrorFeedback` needs. No positions travel: both ends
    draw them from the seed in the payload by a generator whose stream NumPy guarantees.
    """

    fraction: float  # of the entries, in (0, 1]; at least one entry is kept
    unbiased: bool = True
    name: ClassVar[str] = "random_k"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", check_fraction("random_k's fraction", self.fraction))
        check_one_of("random_k's unbiased", self.unbiased, (True, False))

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def select(self, x: NDArray, rng: np.random.Generator) -> tuple[bytes, NDArray]:
        """The seed, and the values drawn by it, scaled where they are to be unbiased.

        Raises `CodecError` where a scaled value is beyond the largest of its type.
        """
        flat = flat_floats(x)
        extent(flat)
        seed = rng.bytes(_SEED_BYTES)
        values = read_kept(flat, _drawn(seed, kept_count(flat.size, self.fraction), flat.size))
        if self.unbiased and values.size:
            with np.errstate(over="ignore"):
                values = values * values.dtype.type(flat.size / values.size)
            if not np.isfinite(values).all():
                raise CodecError(
                    f"values scaled by {flat.size / values.size:.3g} are out of {flat.dtype}'s range"
                )
        return seed, values

    def kept(self, payload: memoryview, size: int) -> tuple[NDArray, int, memoryview]:
        """The mask that the payload's seed draws, how many it keeps, and the rest of the payload."""
        seed, rest = split(payload, _SEED_BYTES, "seed")
        count = kept_count(size, self.fraction)
        return _drawn(bytes(seed), count, size), count, rest

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The seed, and the values in the array's type."""
        seed, values = self.select(x, rng)
        return seed + values.tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The drawn values at their positions, zeros elsewhere."""
        dtype, size = float_dtype(dtype), size_of(shape)
        _, rest = split(memoryview(payload), _SEED_BYTES, "seed")
        values, rest = read_values(rest, kept_count(size, self.fraction), dtype)
        nothing_left(rest)
        found = np.zeros(size, dtype)
        write_kept(found, self.kept(memoryview(payload), size)[0], values)
        return found.reshape(shape), {}


def _drawn(seed: bytes, count: int, size: int) -> NDArray:
    """A mask of `count` among `size` entries, every one equally likely.

    Uniform positions are drawn until `count` are distinct (of more than half, those left out are
    drawn); never more are drawn at once than are missing, so the first distinct ones are kept.
    """
    left_out = 2 * count > size
    wanted = missing = size - count if left_out else count
    stream = np.random.Philox(key=int.from_bytes(seed, "little"))
    marked = np.zeros(size, bool)
    while missing:
        drawn = stream.random_raw(min(missing, _DRAWS))
        drawn -= drawn // np.uint64(size) * np.uint64(size)  # `%`, but fast
        marked[drawn.view(np.int64)] = True
        missing = wanted - int(np.count_nonzero(marked))
    return np.logical_not(marked, out=marked) if left_out else marked
