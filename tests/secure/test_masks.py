"""Masks are the key stream's words below the prime, and their bytes are read strictly."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME
from fedeff.secure import masks
from fedeff.secure.masks import add_mask, elements_of, expanded, packed


def stream_words(seed: bytes, count: int) -> list[int]:
    data = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(4 * count))
    return [int.from_bytes(data[i : i + 4], "little") & PRIME for i in range(0, len(data), 4)]


def test_a_mask_is_the_words_of_the_key_stream():
    seed = bytes(range(32))
    assert expanded(seed, 100).tolist() == stream_words(seed, 100)
    total = np.full(100, 5, np.int64)
    add_mask(total, seed)
    assert total.tolist() == [5 + word for word in stream_words(seed, 100)]


def test_a_word_that_is_no_element_is_drawn_again_from_those_that_follow(monkeypatch):
    # Of the real prime that is one word of 2^31: with the stream's first word in its place it is that one.
    seed = bytes(32)
    first = stream_words(seed, 1)[0]
    monkeypatch.setattr(masks, "PRIME", first)
    found = masks._words(seed, 3)
    assert first not in found.tolist()
    data = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(24))
    raw = [int.from_bytes(data[i : i + 4], "little") & first for i in range(0, 24, 4)]
    later = iter(raw[3:])
    assert found.tolist() == [word if word != first else next(later) for word in raw[:3]]


def test_elements_travel_in_four_bytes_and_nothing_else_is_read():
    some = np.array([0, 1, PRIME - 1])
    assert len(packed(some)) == 12
    assert elements_of(packed(some), 3).tolist() == some.tolist()
    with pytest.raises(SecureAggregationError, match="12 bytes of elements, expected 16"):
        elements_of(packed(some), 4)
    with pytest.raises(SecureAggregationError, match="expected less than"):
        elements_of(np.array([PRIME], "<u4").tobytes(), 1)
