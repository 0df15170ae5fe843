"""Which entries are kept, in few bits: the gaps between ascending positions, Golomb-Rice coded.

A gap `g` is `g >> r` in unary and its last `r` bits as they are (Golomb, 1966; Rice, 1979). For
entries picked independently with probability `p` that is within 4% of the entropy of the gaps.
"""

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.compression.reading import split
from fedeff.core.errors import CodecError

__all__ = ["pack_positions", "unpack_positions"]

_ROWS = 1 << 13  # gaps whose remainders are cut into bits at a time; a multiple of eight


def pack_positions(positions: NDArray, size: int) -> bytes:
    """The bytes of ascending int64 positions below `size`; a byte for `r`, remainders, unary parts."""
    if not positions.size:
        return b""
    gaps = _gaps(positions)
    rice = _best_rice(gaps, size)
    quotients = gaps >> rice
    unary = np.zeros(int(quotients.sum()) + gaps.size, np.uint8)
    unary[np.cumsum(quotients + 1) - 1] = 1
    return bytes([rice]) + _pack_low_bits(gaps, rice) + np.packbits(unary).tobytes()


def unpack_positions(payload: memoryview, count: int, size: int) -> tuple[NDArray, memoryview]:
    """`count` ascending positions below `size`, int64, and the rest of the payload.

    Raises `CodecError` on bytes that are no such positions. Takes memory of the order of `count`,
    and `count` bits must be there before any is taken.
    """
    if not count:
        return np.zeros(0, np.int64), payload
    head, rest = split(payload, 1, "positions")
    rice = head[0]
    if count > size or 1 << rice > max(size, 1):
        raise CodecError(f"the payload's positions are not of {count} among {size} entries")
    low, rest = split(rest, -(-count * rice // 8), "positions")
    gaps, rest = _read_unary(rest, count, size >> rice)
    gaps <<= rice
    gaps += _unpack_low_bits(low, count, rice)
    if float(gaps.sum(dtype=np.float64)) + count > size:
        raise CodecError(f"the payload's positions run past the {size} entries of the array")
    gaps += 1
    positions = np.cumsum(gaps, out=gaps)
    positions -= 1
    return positions, rest


def _gaps(ascending: NDArray) -> NDArray:
    """How many whole numbers lie before the first and between neighbours."""
    gaps = ascending.copy()
    gaps[1:] -= ascending[:-1] + 1
    return gaps


def _best_rice(gaps: NDArray, size: int) -> int:
    """The number of remainder bits that makes the code shortest, near log2 of the mean gap."""
    likely = max((size // gaps.size).bit_length() - 1, 0)
    allowed = [r for r in range(max(likely - 2, 0), likely + 2) if 1 << r <= size]
    return min(allowed, key=lambda r: int((gaps >> r).sum()) + gaps.size * r)


def _pack_low_bits(gaps: NDArray, rice: int) -> bytes:
    shifts = np.arange(rice)
    starts = range(0, gaps.size, _ROWS)
    rows = (gaps[start : start + _ROWS, None] >> shifts & 1 for start in starts)
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in rows)


def _unpack_low_bits(packed: memoryview, count: int, rice: int) -> NDArray:
    found = np.zeros(count, np.int64)
    if not rice:
        return found
    weights = 1 << np.arange(rice)
    for start in range(0, count, _ROWS):
        part = found[start : start + _ROWS]
        first = start * rice // 8
        cut = np.frombuffer(packed[first : first + -(-part.size * rice // 8)], np.uint8)
        part[:] = np.unpackbits(cut, count=part.size * rice).reshape(-1, rice) @ weights
    return found


def _read_unary(payload: memoryview, count: int, largest_sum: int) -> tuple[NDArray, memoryview]:
    """The `count` numbers in unary, and what comes after the last byte of them."""
    bits = np.unpackbits(np.frombuffer(payload[: -(-(count + largest_sum) // 8)], np.uint8))
    ends = np.flatnonzero(bits)[:count]
    if ends.size < count:
        raise CodecError(f"the payload ends in its positions: {ends.size} of {count}")
    used_bytes = int(ends[-1]) // 8 + 1
    return _gaps(ends), payload[used_bytes:]
