"""Reading and writing by a mask, chunk by chunk, is reading and writing by it at once."""

import numpy as np
import pytest

from fedeff.compression.floats import CHUNK
from fedeff.compression.masks import read_kept, write_kept


@pytest.mark.parametrize("size", [0, 1, 7, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_mask_chunk_by_chunk_is_the_mask(size, share):
    rng = np.random.default_rng(0)
    flat, mask = rng.standard_normal(size), rng.random(size) < share
    values = read_kept(flat, mask)
    assert np.array_equal(values, flat[mask])
    assert not np.shares_memory(values, flat)
    found, expected = np.zeros(size), np.zeros(size)
    write_kept(found, mask, values)
    expected[mask] = values
    assert np.array_equal(found, expected)


def test_positions_are_written_too():
    found = np.zeros(5)
    write_kept(found, np.array([1, 4]), np.array([2.0, 3.0]))
    assert found.tolist() == [0, 2, 0, 0, 3]
