"""Cutting a payload into its parts: whatever the bytes are, a part or a `CodecError`."""

import math
from typing import Any

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.core.errors import CodecError

__all__ = ["nothing_left", "read_scale", "read_values", "read_varint", "split", "varint"]

_VARINT_BITS = 56  # no count or length on the wire is larger


def split(payload: memoryview, size_bytes: int, what: str) -> tuple[memoryview, memoryview]:
    """The first bytes and the rest; raises `CodecError` where there are fewer."""
    if len(payload) < size_bytes:
        raise CodecError(f"the payload ends in its {what}: {len(payload)} bytes of {size_bytes}")
    return payload[:size_bytes], payload[size_bytes:]


def nothing_left(rest: memoryview) -> None:
    """Raise `CodecError` where bytes are left over."""
    if len(rest):
        raise CodecError(f"the payload has {len(rest)} bytes more than its array needs")


def read_values(payload: memoryview, count: int, dtype: np.dtype[Any]) -> tuple[NDArray, memoryview]:
    """The first `count` values as a read-only view, all finite, and the rest."""
    head, rest = split(payload, count * dtype.itemsize, "values")
    values = np.frombuffer(head, dtype)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise CodecError("the payload holds NaN or infinite values, which no codec writes")
    return values, rest


def read_scale(payload: memoryview, dtype: np.dtype[Any]) -> tuple[float, memoryview]:
    """A finite number that is not negative, and the rest of the payload."""
    head, rest = split(payload, dtype.itemsize, "scale")
    scale = float(np.frombuffer(head, dtype)[0])
    if not (math.isfinite(scale) and scale >= 0):
        raise CodecError(f"the payload's scale is {scale}; a scale is finite and not negative")
    return scale, rest


def varint(number: int) -> bytes:
    """A whole number of 0 or more, seven bits a byte, the least first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def read_varint(payload: memoryview, what: str) -> tuple[int, memoryview]:
    """The number that `varint` wrote, and the rest; raises `CodecError` past 56 bits."""
    number = 0
    for index, byte in enumerate(payload[: _VARINT_BITS // 7]):
        number |= (byte & 0x7F) << 7 * index
        if byte <= 0x7F:
            return number, payload[index + 1 :]
    raise CodecError(f"the payload ends in its {what}, or the number is too large")
