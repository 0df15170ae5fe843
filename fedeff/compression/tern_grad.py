"""TernGrad: every value becomes minus the scale, zero or the scale, right in the mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.digits import pack_digits, packed_bytes, unpack_digits
from fedeff.compression.fields import check_not_negative, check_one_of
from fedeff.compression.floats import (
    CHUNK,
    chunks,
    computing_dtype,
    extent,
    flat_floats,
    float_dtype,
    size_of,
)
from fedeff.compression.reading import nothing_left, read_scale
from fedeff.compression.rounding import stochastic_digits
from fedeff.core.errors import CodecError

__all__ = ["SHARED_SCALE", "TernGrad"]

SHARED_SCALE = "shared-scale"
"""The name in an encoder's memory under which the receiver puts the scale that all senders use."""

_BASES = {"base3": 3, "2bit": 4}
_TOP = 2  # the digits are 0, 1, 2 for minus the scale, zero, the scale


@dataclass(frozen=True)
class TernGrad:
    """`s * sign(x) * b` with `P(b_k = 1) = |x_k| / s` (Wen, dissertation 2019, equations 4.1 to 4.3).

    Before it, values are clipped to `clip * sigma` (equation 4.21); `s` is the largest magnitude
    after clipping. Unbiased for the clipped value. Each array is coded by itself, weights and biases
    apart, as in section 4.1.3. `sigma` is the deviation from zero, `sqrt(mean(x^2))`: the
    dissertation's standard deviation where the mean is near zero, as it takes for granted, and the
    one that also spares a single value or a constant array, whose standard deviation is zero.

    Scale sharing: where the encoder's memory has a `shared-scale`, values are clipped to it as well
    and it is `s`, so the mean over N senders has at most 2N + 1 levels; the scale the sender would
    have used goes along for the next round's sharing (`own_scale`).

    Not good for the classifier's last layer where every tenth of a point counts: exempt it by
    `per_layer({"fc2.*": raw, "*": tern_grad})`.
    """

    clip: float = 2.5  # in sigmas; 0 does not clip
    packing: str = "base3"  # 1.6 bits a value; "2bit" is for other decoders
    name: ClassVar[str] = "tern_grad"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", check_not_negative("tern_grad's clip", self.clip))
        check_one_of("tern_grad's packing", self.packing, tuple(_BASES))

    def for_array(self, name: str) -> Codec:
        """Itself."""
        return self

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """The digits, the scale in the array's type and, where the scale is shared, one's own scale."""
        flat = flat_floats(x)
        own, shared = self._own_scale(flat), _shared_scale(memory, flat.dtype)
        scale, limit = (own, own) if shared is None else (shared, min(own, shared))
        digits = stochastic_digits(flat, 0.0, scale, _TOP, rng, limit=limit)
        scales = [scale] if shared is None else [scale, own]
        return pack_digits(digits, _BASES[self.packing]) + np.array(scales, flat.dtype).tobytes(), {}

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """Minus the scale, zero and the scale."""
        dtype, size = float_dtype(dtype), size_of(shape)
        scale, _ = self._scales(memoryview(payload), size, dtype)
        digits, _ = unpack_digits(memoryview(payload), size, _BASES[self.packing])
        if self.packing == "2bit" and size and digits.max() > _TOP:
            raise CodecError("the payload has a digit that is not ternary")
        return _times(digits, scale, dtype).reshape(shape), {}

    def own_scale(self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike) -> float:
        """The scale the sender would have used unshared; raises `CodecError` as `decode` does."""
        return self._scales(memoryview(payload), size_of(shape), float_dtype(dtype))[1]

    def _scales(self, payload: memoryview, size: int, dtype: np.dtype[Any]) -> tuple[float, float]:
        packed = packed_bytes(size, _BASES[self.packing])
        scale, rest = read_scale(payload[packed:], dtype)
        own, rest = read_scale(rest, dtype) if len(rest) else (scale, rest)
        nothing_left(rest)
        return scale, own

    def _own_scale(self, flat: NDArray) -> float:
        low, high = extent(flat)
        peak = max(abs(low), high)
        if not (self.clip and peak):
            return peak
        return float(flat.dtype.type(min(peak, self.clip * _deviation(flat, peak))))


def _times(digits: NDArray, scale: float, dtype: np.dtype[Any]) -> NDArray:
    """Minus the scale, zero and the scale for the digits 0, 1 and 2, which are overwritten."""
    digits -= 1  # 255 is -1 as int8
    values = np.empty(digits.size, dtype)
    for part in chunks(digits.size):
        signs = digits[part].view(np.int8)
        np.multiply(signs, scale, out=values[part], dtype=computing_dtype(dtype), casting="same_kind")
    return values


def _deviation(flat: NDArray, peak: float) -> float:
    """The root of the mean square; summed a chunk at a time, so that no square overflows."""
    dtype = computing_dtype(flat.dtype)
    room = np.empty(min(flat.size, CHUNK), dtype)
    total = 0.0
    for part in chunks(flat.size):
        unit = room[: part.stop - part.start]
        np.divide(flat[part], peak, out=unit, dtype=dtype)
        np.square(unit, out=unit)
        total += float(unit.sum())
    return peak * math.sqrt(total / flat.size)


def _shared_scale(memory: Mapping[str, NDArray], dtype: np.dtype[Any]) -> float | None:
    if SHARED_SCALE not in memory:
        return None
    with np.errstate(over="ignore"):
        scale = float(np.asarray(memory[SHARED_SCALE]).astype(dtype).reshape(-1)[0])
    if not (math.isfinite(scale) and scale >= 0):
        raise CodecError(f"the shared scale is {scale}; give a finite number of 0 or more")
    return scale
