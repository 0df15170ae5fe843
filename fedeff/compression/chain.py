"""Chain: the values that one codec keeps, coded by another."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Selection, Shape
from fedeff.compression.fields import check_codec
from fedeff.compression.floats import float_dtype, size_of
from fedeff.compression.masks import write_kept
from fedeff.core.errors import ConfigError

__all__ = ["Chain"]

_OF_ONE_ARRAY = ("error_feedback", "ef21", "per_layer", "power_sgd")


@dataclass(frozen=True)
class Chain:
    """Which entries travel is up to `select`, how their values do to `then`.

    `chain(top_k(0.01), uniform(4))` sends about 12 bits for each kept entry instead of 40. As
    biased as `select`. What is remembered is what `then` remembers.
    """

    select: Selection
    then: Codec
    name: ClassVar[str] = "chain"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_codec("chain's select", self.select)
        check_codec("chain's then", self.then)
        if not isinstance(self.select, Selection):
            raise ConfigError(
                f"chain's select is {self.select.name}; give a codec that selects, top_k or random_k"
            )
        if self.then.name in _OF_ONE_ARRAY:
            raise ConfigError(
                f"chain's then is {self.then.name}, whose memory is of a whole array; put it outside"
            )

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The kept positions, and the payload of the kept values."""
        positions, values = self.select.select(x, rng)
        payload, memory = self.then.encode(values, memory, rng)
        return positions + payload, memory

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The decoded values at their positions, zeros elsewhere."""
        dtype, size = float_dtype(dtype), size_of(shape)
        kept, count, rest = self.select.kept(memoryview(payload), size)
        values, memory = self.then.decode(rest, (count,), dtype, memory)
        found = np.zeros(size, dtype)
        write_kept(found, kept, values)
        return found.reshape(shape), memory
