"""Small whole numbers in few bytes: as many digits of a base to a word as fit, five to a byte in base 3.

Planes, not neighbours, share a word: word `j` of `m` holds the digits `j, j + m, j + 2m, ...`, the
first in the lowest place, so that packing is whole-array arithmetic on contiguous memory.
"""

from functools import lru_cache

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.compression.reading import split
from fedeff.core.errors import CodecError

__all__ = ["pack_digits", "packed_bytes", "unpack_digits"]

_TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<u4", 5: "<u8", 6: "<u8", 7: "<u8", 8: "<u8"}
_WORDS_AT_A_TIME = 1 << 13
_BYTE = 256


def packed_bytes(count: int, base: int) -> int:
    """How many bytes `count` digits of this base (2 to 256) take."""
    per_word, width = _grouping(count, base)
    return -(-count // per_word) * width


def pack_digits(digits: NDArray, base: int) -> bytes:
    """The bytes of `digits`, a row of uint8 below `base`.

    Base 3: 1.6 bits a digit (log2 3 = 1.585). Powers of two lose nothing, other bases below 64 up to
    6%, those above up to 12%.
    """
    if base == _BYTE or not digits.size:
        return digits.tobytes()
    per_word, width = _grouping(digits.size, base)
    planes = np.zeros((per_word, -(-digits.size // per_word)), np.uint8)
    planes.reshape(-1)[: digits.size] = digits
    words = np.empty(planes.shape[1], _TYPES[width])
    places = _places(base, per_word, width)
    for start in range(0, words.size, _WORDS_AT_A_TIME):
        part = slice(start, start + _WORDS_AT_A_TIME)
        np.add.reduce(planes[:, part] * places, axis=0, dtype=words.dtype, out=words[part])
    if words.itemsize == width:
        return words.tobytes()
    return words.view(np.uint8).reshape(words.size, -1)[:, :width].tobytes()


def unpack_digits(payload: memoryview, count: int, base: int) -> tuple[NDArray, memoryview]:
    """`count` digits as fresh uint8, and the rest of the payload.

    Raises `CodecError` on a short payload and on words that no digits make.
    """
    per_word, width = _grouping(count, base)
    stride = -(-count // per_word)
    head, rest = split(payload, stride * width, "digits")
    if base == _BYTE or not count:
        return np.frombuffer(head, np.uint8).copy(), rest
    words = _words(head, width)
    planes = np.empty((per_word, stride), np.uint8)
    places = _places(base, per_word, width)
    for start in range(0, stride, _WORDS_AT_A_TIME):
        part = slice(start, start + _WORDS_AT_A_TIME)
        quotients = words[part] // places
        if np.any(quotients[-1] >= base):
            raise CodecError(f"the payload has a word that is not of {per_word} digits of base {base}")
        quotients[:-1] -= quotients[1:] * places.dtype.type(base)
        planes[:, part] = quotients
    return planes.reshape(-1)[:count], rest


def _words(packed: memoryview, width: int) -> NDArray:
    found = np.frombuffer(packed, np.uint8)
    size = np.dtype(_TYPES[width]).itemsize
    if size != width:
        wide = np.zeros((found.size // width, size), np.uint8)
        wide[:, :width] = found.reshape(-1, width)
        found = wide.reshape(-1)
    return found.view(_TYPES[width])


@lru_cache(maxsize=1024)
def _grouping(count: int, base: int) -> tuple[int, int]:
    """Digits to a word and bytes to a word that make `count` digits shortest."""
    return min(_fitting(base), key=lambda one: (-(-count // one[0]) * one[1], one[1]))


@lru_cache(maxsize=256)
def _fitting(base: int) -> list[tuple[int, int]]:
    """For every width of a word in bytes: how many digits it holds, and the width."""
    return [(sum(base**n <= 256**width for n in range(1, 65)), width) for width in _TYPES]


@lru_cache(maxsize=256)
def _places(base: int, per_word: int, width: int) -> NDArray:
    """What a digit of each plane counts, one a row."""
    places = np.array([[base**place] for place in range(per_word)], _TYPES[width])
    places.flags.writeable = False
    return places
