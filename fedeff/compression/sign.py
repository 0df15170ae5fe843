"""Sign: one bit a value and the mean magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.floats import computing_dtype, extent, flat_floats, float_dtype, size_of
from fedeff.compression.reading import nothing_left, read_scale, split

__all__ = ["Sign"]


@dataclass(frozen=True)
class Sign:
    """`mean(|x|) * sign(x)`: 1 bit a value (Karimireddy et al., arXiv:1901.09847, EF-signSGD).

    Biased: use it under `ErrorFeedback`; without, it need not converge. A zero counts as positive.
    """

    name: ClassVar[str] = "sign"
    linear: ClassVar[bool] = False

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The scale, in the array's type, and a bit a value."""
        flat = flat_floats(x)
        peak = max(map(abs, extent(flat)))
        shares = np.abs(flat, dtype=computing_dtype(flat.dtype)) / (peak or 1.0)  # no sum of these overflows
        scale = peak * shares.mean(dtype=np.float64) if flat.size else 0.0
        return flat.dtype.type(scale).tobytes() + np.packbits(flat >= 0).tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """Plus or minus the scale."""
        dtype, size = float_dtype(dtype), size_of(shape)
        scale, rest = read_scale(memoryview(payload), dtype)
        packed, rest = split(rest, -(-size // 8), "bits")
        nothing_left(rest)
        positive = np.unpackbits(np.frombuffer(packed, np.uint8), count=size)
        levels = np.array([-scale, scale], dtype)
        return levels[positive].reshape(shape), {}
