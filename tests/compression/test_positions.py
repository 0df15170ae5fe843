"""Positions as Golomb-Rice gaps: a naive reader reads them, few bits, no other bytes pass."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.compression.positions import pack_positions, unpack_positions
from fedeff.errors import CodecError


def drawn(size, count, seed):
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False)).astype(np.int64)


def naive(packed, count):
    """The same positions, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in packed[1:])
    rice, at = packed[0], -(-count * packed[0] // 8) * 8
    found, last = [], -1
    for index in range(count):
        low = int(bits[index * rice : (index + 1) * rice][::-1] or "0", 2)
        quotient = 0
        while bits[at] == "0":
            quotient, at = quotient + 1, at + 1
        at += 1
        last += 1 + (quotient << rice) + low
        found.append(last)
    return found


@given(size=st.integers(1, 5000), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_what_went_in_comes_out(size, share, seed):
    positions = drawn(size, round(share * size), seed)
    packed = pack_positions(positions, size)
    found, rest = unpack_positions(memoryview(packed + b"rest"), positions.size, size)
    assert np.array_equal(found, positions)
    assert bytes(rest) == b"rest"
    assert naive(packed, positions.size) == positions.tolist() if positions.size else packed == b""


@pytest.mark.parametrize("positions", [[0], [999], list(range(10)), list(range(990, 1000)), [0, 999]])
def test_the_edges(positions):
    packed = pack_positions(np.array(positions), 1000)
    assert unpack_positions(memoryview(packed), len(positions), 1000)[0].tolist() == positions


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_bits_are_near_the_entropy(share):
    size = 1_000_000
    positions = drawn(size, round(share * size), 0)
    entropy = -size * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert entropy < 8 * len(pack_positions(positions, size)) < 1.06 * entropy


@given(data=st.binary(max_size=40), size=st.integers(0, 2000), count=st.integers(0, 2000))
def test_any_bytes_are_positions_or_refused(data, size, count):
    try:
        positions, _ = unpack_positions(memoryview(data), count, size)
    except CodecError:
        return
    assert positions.size == count
    assert np.all(np.diff(positions) > 0)
    assert not count or (positions[0] >= 0 and positions[-1] < size)


@pytest.mark.parametrize("rice", [0, 5, 9, 10, 40, 60, 63, 64, 255])
def test_remainders_of_any_width_do_not_wrap_around(rice):
    """All-ones remainders: sums that overflow would come out small."""
    with pytest.raises(CodecError):
        unpack_positions(memoryview(bytes([rice]) + b"\xff" * 100_000), 3000, 2999)


def test_sums_do_not_wrap_around():
    """2^18 gaps of 2^46 - 1 and as many steps are 2^64."""
    count = 2**18
    data = bytes([46]) + b"\xff" * (count * 46 // 8) + b"\xff" * (count // 8)
    with pytest.raises(CodecError, match="past"):
        unpack_positions(memoryview(data), count, 2**47)


def test_remainders_wider_than_the_array_are_refused():
    data = memoryview(bytes([10, 0, 0, 0x80]))
    assert unpack_positions(data, 1, 1024)[0].tolist() == [0]
    with pytest.raises(CodecError, match="not of 1 among 1023"):
        unpack_positions(data, 1, 1023)


def test_gaps_past_the_end_are_refused():
    packed = pack_positions(np.array([5, 900]), 1000)
    with pytest.raises(CodecError, match="past the 900 entries"):
        unpack_positions(memoryview(packed), 2, 900)


def test_huge_sizes():
    size = 2**40
    positions = np.array([0, 2**20, 2**39, size - 1])
    packed = pack_positions(positions, size)
    assert unpack_positions(memoryview(packed), 4, size)[0].tolist() == positions.tolist()
