"""What a codec is: one array of one sender to bytes and back, with what either end remembers."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["Codec", "Layout", "Memory", "NDArray", "Selection", "Shape", "layout_of"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Memory = Mapping[str, NDArray]
"""What a codec remembers of one array of one sender (or receiver) by name; empty at the start."""
Layout = Mapping[str, tuple[Shape, DTypeLike]]
"""Shape and dtype of arrays by name, in the order in which they travel."""


@runtime_checkable
class Codec(Protocol):
    """A frozen dataclass that turns one array of floats into bytes and back.

    Memories and arrays are never changed in place: the caller keeps what is returned, or does not
    where a message got lost.
    """

    @property
    def name(self) -> str:
        """The codec's name in the spec grammar, such as `top_k`."""
        ...

    @property
    def linear(self) -> bool:
        """Whether the decoded mean of payload values is the mean of the decoded ones.

        Only such a codec can sit under secure aggregation or an erasure code.
        """
        ...

    def for_array(self, name: str) -> "Codec":
        """The codec for the array of this name: itself, but for policies that look at names."""
        ...

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The payload of `x` (float16, float32 or float64, any shape), and what to remember.

        Raises `CodecError` when `x` has a NaN or an infinity, is not of floats, or does not fit
        the memory.
        """
        ...

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """A fresh array of this shape and dtype, and what to remember.

        Raises `CodecError`, and nothing else, on a payload that `encode` did not write; what it
        allocates is of the order of the array and the payload.
        """
        ...


@runtime_checkable
class Selection(Codec, Protocol):
    """A codec that keeps some entries as they are: `Chain` codes the kept values by another codec."""

    def select(self, x: NDArray, rng: np.random.Generator) -> tuple[bytes, NDArray]:
        """Which entries are kept, as bytes that know their own end, and their values, 1-D."""
        ...

    def kept(self, payload: memoryview, size: int) -> tuple[NDArray, int, memoryview]:
        """Which entries are kept, how many, and the rest of the payload.

        Ascending flat positions (int64) or a mask of `size` booleans: either indexes a flat array.
        Raises `CodecError` on bytes that `select` did not write for an array of `size` entries.
        """
        ...


def layout_of(arrays: Mapping[str, NDArray]) -> dict[str, tuple[Shape, np.dtype[Any]]]:
    """Shape and dtype of every array by name: what `unpack` takes as `expected`."""
    return {name: (values.shape, values.dtype) for name, values in arrays.items()}
