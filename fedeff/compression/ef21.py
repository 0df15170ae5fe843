"""EF21: both ends hold an estimate, and what travels is its correction."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_codec
from fedeff.compression.floats import float_dtype
from fedeff.compression.nesting import check_contracts
from fedeff.core.errors import CodecError

__all__ = ["EF21"]

_ESTIMATE = "estimate"


@dataclass(frozen=True)
class EF21:
    """`g <- g + codec(x - g)` at both ends; what is decoded is `g`.

    Richtarik et al., arXiv:2106.05203, algorithm 2; `g` begins at zero. For any contractive codec,
    such as `TopK`, `Sign` or `PowerSGD`. Sender and receiver each keep
    one array as large as `x` for each sender, and must see the same messages: a lost one spoils the
    estimate until both begin anew. Good where `x` changes little from round to round.
    """

    codec: Codec
    name: ClassVar[str] = "ef21"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_codec("ef21's codec", self.codec)
        check_contracts("ef21", self.codec)

    def for_array(self, name: str) -> Codec:
        """EF21 of the inner codec for the array of this name."""
        inner = self.codec.for_array(name)
        return self if inner is self.codec else EF21(inner)

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The inner codec's payload of `x - g`; remembers the new `g`."""
        inner = {key: values for key, values in memory.items() if key != _ESTIMATE}
        x = x.astype(float_dtype(x.dtype), copy=False)
        estimate = _estimate(memory, x.shape, x.dtype)
        payload, inner_after = self.codec.encode(x - estimate, inner, rng)
        correction, _ = self.codec.decode(payload, x.shape, x.dtype, inner)
        return payload, {**inner_after, _ESTIMATE: estimate + correction}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """The new `g`, which is remembered."""
        dtype = float_dtype(dtype)
        inner = {key: values for key, values in memory.items() if key != _ESTIMATE}
        estimate = _estimate(memory, shape, dtype)
        correction, inner_after = self.codec.decode(payload, shape, dtype, inner)
        with np.errstate(over="ignore"):
            correction += estimate
        if not np.isfinite(correction).all():
            raise CodecError(f"the payload takes the estimate out of {dtype}'s range")
        return correction, {**inner_after, _ESTIMATE: correction.copy()}


def _estimate(memory: Memory, shape: Shape, dtype: np.dtype[np.generic]) -> NDArray:
    estimate = memory.get(_ESTIMATE)
    if estimate is None:
        return np.zeros(shape, dtype)
    if estimate.shape != shape or estimate.dtype != dtype:
        raise CodecError(
            f"the estimate is {estimate.dtype}{estimate.shape}, the array {dtype}{shape}: begin anew"
        )
    return estimate
