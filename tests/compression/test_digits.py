"""Digits in words: what went in comes out, in as few bytes as promised, and no other bytes pass."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.compression.digits import pack_digits, packed_bytes, unpack_digits
from fedeff.errors import CodecError


@given(base=st.integers(2, 256), count=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_what_went_in_comes_out(base, count, seed):
    digits = np.random.default_rng(seed).integers(base, size=count).astype(np.uint8)
    packed = pack_digits(digits, base)
    assert len(packed) == packed_bytes(count, base)
    found, rest = unpack_digits(memoryview(packed + b"more"), count, base)
    assert np.array_equal(found, digits)
    assert found.dtype == np.uint8
    assert bytes(rest) == b"more"


def test_five_ternary_digits_to_a_byte_by_hand():
    """Ten digits are two bytes: byte j holds digits j, j + 2, ... from the least place up."""
    digits = np.array([2, 0, 1, 0, 0, 1, 0, 2, 1, 2], np.uint8)
    first = 2 + 1 * 3 + 0 * 9 + 0 * 27 + 1 * 81
    second = 0 + 0 * 3 + 1 * 9 + 2 * 27 + 2 * 81
    assert pack_digits(digits, 3) == bytes([first, second])


def test_bytes_are_near_the_entropy():
    for base in range(2, 257):
        bits = 8 * packed_bytes(1_000_000, base) / 1_000_000
        allowed = 1.001 if base & (base - 1) == 0 else 1.06 if base < 64 else 1.125
        assert math.log2(base) - 1e-9 <= bits <= math.log2(base) * allowed, base


def test_ternary_takes_one_point_six_bits():
    assert packed_bytes(1_000_000, 3) == 200_000


@given(base=st.sampled_from([3, 5, 6, 7, 100, 255]), data=st.binary(max_size=64), count=st.integers(0, 100))
def test_any_bytes_are_digits_or_refused(base, data, count):
    try:
        digits, rest = unpack_digits(memoryview(data), count, base)
    except CodecError:
        return
    assert digits.size == count
    assert not count or digits.max() < base
    assert len(rest) == len(data) - packed_bytes(count, base)


def test_a_word_beyond_its_digits_is_refused():
    with pytest.raises(CodecError, match="not of 5 digits of base 3"):
        unpack_digits(memoryview(bytes([243])), 5, 3)


def test_a_short_payload_is_refused():
    with pytest.raises(CodecError, match="1 bytes of 2"):
        unpack_digits(memoryview(b"\0"), 10, 3)
