"""Stochastic rounding onto evenly spaced levels: unbiased, a chunk at a time."""

from typing import Any

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.compression.floats import CHUNK, chunks, computing_dtype

__all__ = ["digits_to_values", "dither", "levels_between", "stochastic_digits"]


def stochastic_digits(
    flat: NDArray,
    centre: float,
    half: float,
    top: int,
    rng: np.random.Generator,
    *,
    limit: float | None = None,
) -> NDArray:
    """The level of each value as a digit from 0 to `top` (at most 255), in uint8.

    The levels lie evenly on `[centre - half, centre + half]`. Values are clipped to `limit` around
    the centre (at most, and by default, `half`). Between two levels a value goes up with the
    probability of its share of the way, so the expectation of the level is the clipped value. A
    value at the centre stays there, for even `top`.
    """
    digits = np.full(flat.size, top // 2, np.uint8)
    if half == 0:
        return digits
    dtype = computing_dtype(flat.dtype)
    limit = half if limit is None else limit
    room = np.empty(min(flat.size, CHUNK), dtype)
    for part in chunks(flat.size):
        unit = room[: part.stop - part.start]
        around = np.subtract(flat[part], centre, out=unit, dtype=dtype) if centre else flat[part]
        np.clip(around, -limit, limit, out=unit, dtype=dtype)
        np.divide(unit, half, out=unit)
        dither(unit, top, rng, digits[part])
    return digits


def dither(unit: NDArray, top: int, rng: np.random.Generator, out: NDArray) -> None:
    """Write the digits of `unit`, at most a chunk of values in [-1, 1] that are overwritten, into `out`.

    The digit is `floor(top / 2 * (unit + 1) + u)`, `u` uniform on (0, 1); the whole part of the
    offset is added last. Sixteen bits of `u` are drawn for each value and up to seven more for the
    chunk, as many as float32 adds exactly; half a unit of the last bit keeps `u` off both ends.
    """
    if top != 2:
        unit *= top / 2
    chunk_bits = 7 - (top // 2).bit_length()
    words = _words(rng, 1 + -(-unit.size // 4))
    last_bits = ((int(words[-1]) >> 64 - chunk_bits) + 0.5) / 2 ** (16 + chunk_bits)
    unit += last_bits - top % 2 / 2
    unit += np.multiply(words.view(np.uint16)[: unit.size], 2.0**-16, dtype=unit.dtype)
    np.floor(unit, out=unit)
    unit += (top + 1) // 2
    np.copyto(out, unit, casting="unsafe")


def _words(rng: np.random.Generator, count: int) -> NDArray:
    """So many words of 64 random bits."""
    bits = rng.bit_generator
    if isinstance(bits, np.random.PCG64):  # NumPy's default: the same words without the checks of a range
        return bits.random_raw(count)
    return rng.integers(0, 2**64, size=count, dtype=np.uint64)


def levels_between(centre: float, half: float, top: int, dtype: np.dtype[Any]) -> NDArray:
    """The `top + 1` levels on `[centre - half, centre + half]`, finite where its ends are."""
    ends = np.finfo(dtype)
    exact = centre + half * (2 * np.arange(top + 1) / top - 1)
    return np.clip(exact, float(ends.min), float(ends.max)).astype(dtype)


def digits_to_values(digits: NDArray, levels: NDArray) -> NDArray:
    """The level of each digit; no digit may be beyond the levels."""
    values = np.empty(digits.size, levels.dtype)
    for part in chunks(digits.size):
        np.take(levels, digits[part], out=values[part], mode="clip")
    return values
