"""PowerSGD: a matrix as the product of two thin ones."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_whole
from fedeff.compression.floats import computing_dtype, extent, flat_floats, float_dtype
from fedeff.compression.raw import Raw
from fedeff.compression.reading import nothing_left, read_values
from fedeff.core.errors import CodecError

__all__ = ["PowerSGD"]

_RIGHT = "right"


@dataclass(frozen=True)
class PowerSGD:
    """The product `P Q^T` that one power iteration from the last round's `Q` finds.

    Vogels et al., arXiv:1905.13727, algorithm 1. An array of more than two axes is a matrix of its
    first axis by the others. Vectors, and matrices that two factors would not make shorter, travel
    raw. Biased: use it under `ErrorFeedback`. The paper averages `P` and `Q` between two halves of a
    step; here every sender has its own factors, so it is not linear.
    """

    rank: int = 2
    name: ClassVar[str] = "power_sgd"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("power_sgd's rank", self.rank, 1, 1024)

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The factors, float64 for float64 and else float32; remembers `Q` to start from."""
        flat = flat_floats(x)
        if not self._factored(x.shape, flat.dtype):
            return Raw().encode(x, {}, rng)
        low, high = extent(flat)
        peak = max(abs(low), high) or 1.0
        matrix = np.divide(flat, peak, dtype=computing_dtype(flat.dtype)).reshape(x.shape[0], -1)
        left = np.linalg.qr(matrix @ self._start(matrix, memory, rng)).Q
        right = matrix.T @ left
        with np.errstate(over="ignore"):
            sent = right * right.dtype.type(peak)
        if not (np.isfinite(sent).all() and np.isfinite(left).all()):
            raise CodecError(f"values as large as {peak:.3g} have no factors in {right.dtype}'s range")
        return left.tobytes() + sent.tobytes(), {_RIGHT: right} if right.any() else {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The product, summed rank by rank: equal bits on every machine."""
        dtype = float_dtype(dtype)
        if not self._factored(shape, dtype):
            return Raw().decode(payload, shape, dtype, {})
        computing, rows, columns = computing_dtype(dtype), shape[0], math.prod(shape[1:])
        left, rest = read_values(memoryview(payload), rows * self.rank, computing)
        right, rest = read_values(rest, columns * self.rank, computing)
        nothing_left(rest)
        found = np.zeros((rows, columns), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            _add_products(left.reshape(rows, -1), right.reshape(columns, -1), found)
        if not np.isfinite(found).all():
            raise CodecError(f"the payload's factors have a product out of {dtype}'s range")
        return found.reshape(shape), {}

    def _factored(self, shape: Shape, dtype: np.dtype[Any]) -> bool:
        if len(shape) < 2 or 0 in shape:
            return False
        factors = self.rank * (shape[0] + math.prod(shape[1:])) * computing_dtype(dtype).itemsize
        return factors < math.prod(shape) * dtype.itemsize and self.rank <= shape[0]

    def _start(self, matrix: NDArray, memory: Memory, rng: np.random.Generator) -> NDArray:
        shape = matrix.shape[1], self.rank
        if _RIGHT not in memory:
            return rng.standard_normal(shape, matrix.dtype)
        right = memory[_RIGHT]
        if right.shape != shape or right.dtype != matrix.dtype:
            raise CodecError(
                f"the memory is of a {right.dtype} matrix {right.shape}, not {shape}: begin anew"
            )
        return right


def _add_products(left: NDArray, right: NDArray, found: NDArray) -> None:
    """Add `left right^T` to `found`, a row at a time."""
    for row, factors in zip(found, left, strict=True):
        total = right[:, 0] * factors[0]
        for rank in range(1, factors.size):
            total += right[:, rank] * factors[rank]
        row += total
