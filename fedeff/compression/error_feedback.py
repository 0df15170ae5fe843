"""Error feedback: what a message left out is added to the next."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_codec
from fedeff.compression.nesting import check_contracts
from fedeff.core.errors import CodecError

__all__ = ["ErrorFeedback"]

_RESIDUAL = "residual"


@dataclass(frozen=True)
class ErrorFeedback:
    """`codec` of the array together with what earlier messages left out.

    Karimireddy et al., arXiv:1901.09847, algorithm 2. The sender keeps `residual = (x + residual) -
    sent`, one array as large as `x`; nothing it drops is lost, only late. For codecs that drop or
    shrink (`TopK`, `Sign`, `PowerSGD`); one that is right in the mean but noisy makes the residual
    grow instead. Not good where clients are seldom sampled: their residuals are of models long gone.
    """

    codec: Codec
    name: ClassVar[str] = "error_feedback"

    def __post_init__(self) -> None:
        check_codec("error_feedback's codec", self.codec)
        check_contracts("error_feedback", self.codec)

    @property
    def linear(self) -> bool:
        """Whether the inner codec is: the receiver only decodes by it."""
        return self.codec.linear

    def for_array(self, name: str) -> Codec:
        """Error feedback of the inner codec for the array of this name."""
        inner = self.codec.for_array(name)
        return self if inner is self.codec else ErrorFeedback(inner)

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The inner codec's payload of `x + residual`; remembers the new residual."""
        inner = {key: values for key, values in memory.items() if key != _RESIDUAL}
        owed = _plus_residual(x, memory)
        payload, inner_after = self.codec.encode(owed, inner, rng)
        sent, _ = self.codec.decode(payload, x.shape, x.dtype, inner)
        return payload, {**inner_after, _RESIDUAL: owed - sent}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """What the inner codec decodes."""
        return self.codec.decode(payload, shape, dtype, memory)


def _plus_residual(x: NDArray, memory: Memory) -> NDArray:
    if _RESIDUAL not in memory:
        return x
    residual = memory[_RESIDUAL]
    if residual.shape != x.shape:
        raise CodecError(f"the residual is of shape {residual.shape}, the array of {x.shape}: begin anew")
    return x + residual
