"""Masks from seeds: uniform field elements of ChaCha20's key stream, and their form on the wire."""

from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME, Elements

__all__ = ["ELEMENT_BYTES", "SEED_BYTES", "add_mask", "elements_of", "expanded", "packed"]

SEED_BYTES = 32
ELEMENT_BYTES = 4
_NONCE = bytes(16)  # a seed is used for one mask only


def expanded(seed: bytes, count: int) -> Elements:
    """`count` uniform elements, int64, the same for the same seed.

    Words of 31 bits of the key stream; the one that is no element is drawn again from the words that
    follow, so no element is likelier than another. As secret as the seed, and no more: whoever can
    break ChaCha20 sees through it.
    """
    return _words(seed, count).astype(np.int64)


def add_mask(total: Elements, seed: bytes) -> None:
    """Add the mask of a seed to `total`, in place and not reduced: 2^32 of them fit."""
    np.add(total, _words(seed, len(total)), out=total, casting="unsafe")


def packed(elements: Elements) -> bytes:
    """Four little-endian bytes an element."""
    return elements.astype("<u4").tobytes()


def elements_of(data: bytes | memoryview, count: int) -> Elements:
    """The elements that `packed` wrote.

    Raises:
        SecureAggregationError: for another count, or a word that is no element.
    """
    if len(data) != ELEMENT_BYTES * count:
        raise SecureAggregationError(
            f"{len(data)} bytes of elements, expected {ELEMENT_BYTES * count} for {count} of them"
        )
    words = np.frombuffer(data, "<u4")
    if count and words.max() >= PRIME:
        raise SecureAggregationError(f"an element is {words.max()}, expected less than {PRIME}")
    return words.astype(np.int64)


def _words(seed: bytes, count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    stream = Cipher(ChaCha20(seed, _NONCE), mode=None).encryptor()

    def drawn(amount: int) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
        return np.frombuffer(stream.update(_zeros(ELEMENT_BYTES * amount)), "<u4") & np.uint32(PRIME)

    words = drawn(count)
    while (beyond := words == PRIME).any():
        words[beyond] = drawn(int(beyond.sum()))
    return words


@lru_cache(maxsize=2)
def _zeros(size: int) -> bytes:
    return bytes(size)
