"""What travels beside coded arrays: written and read back, and refused where it is something else."""

import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import CodecError
from fedeff.core.layers import payload_bytes
from fedeff.grids.instructions import (
    RECORD,
    Answer,
    Instruction,
    blob_of,
    coded_record,
    layout_digest,
    number_of,
)

NUMBERS = st.integers(0, 2**62)
INSTRUCTIONS = st.builds(
    Instruction,
    exchange=NUMBERS,
    seed=NUMBERS,
    after=NUMBERS,
    up=st.text(),
    difference=st.booleans(),
    keep=st.booleans(),
    builds_on=st.booleans(),
    down_difference=st.booleans(),
    expects=NUMBERS,
    scales=st.dictionaries(st.text(max_size=5), st.floats(0, 1e6), max_size=3),
)
ANSWERS = st.builds(
    Answer,
    exchange=NUMBERS,
    after=NUMBERS,
    fresh=st.booleans(),
    compact=st.booleans(),
    difference=st.booleans(),
    remembers=st.booleans(),
    digest=NUMBERS,
)


@given(one=INSTRUCTIONS | ANSWERS)
def test_what_is_written_is_what_is_read(one):
    content = RecordDict({RECORD: one.record(), "config": ConfigRecord({"exchange": "no"})})
    assert type(one).of(content) == one


def test_nothing_is_said_where_nothing_is():
    assert Instruction.of(RecordDict({"config": ConfigRecord({"lr": 0.1})})) is None
    assert Answer.of(RecordDict()) is None


def test_no_list_is_empty():
    """Flower's `message_size_mod` reads the first entry of every list."""
    assert set(Instruction(5).record()) == {"exchange", "seed"}


@pytest.mark.parametrize(
    ("key", "value", "seen"),
    [
        ("exchange", "3", "exchange = '3', expected int"),
        ("after", -1, "after = -1, expected int"),
        ("difference", 1, "difference = 1, expected bool"),
        ("remembers", "yes", "remembers = 'yes', expected bool"),
        ("scales", [1.0], "scales [1.0] of arrays []"),
    ],
)
def test_what_nobody_wrote_is_refused(key, value, seen):
    record = ConfigRecord({"exchange": 1, "seed": 0, key: value})
    kind = Answer if key == "remembers" else Instruction
    with pytest.raises(CodecError, match=re.escape(seen)):
        kind.of(RecordDict({RECORD: record}))


@given(blob=st.binary())
def test_a_blob_travels_without_a_byte_more(blob):
    record = coded_record(blob)
    assert payload_bytes(record) == len(blob)
    assert blob_of(record) == blob


def test_other_records_are_no_blobs():
    values = Array(np.zeros(3, np.uint8))
    for record in (ArrayRecord(), ArrayRecord({"blob": values}), ConfigRecord({"blob": 1})):
        assert blob_of(record) is None


def test_a_layouts_digest_tells_names_shapes_types_and_order():
    a, b = ("a", ((2, 3), np.dtype("f4"))), ("b", ((), np.dtype("i8")))
    others = [[b, a], [a], [("c", a[1]), b], [("a", ((3, 2), np.dtype("f4"))), b]]
    others += [[("a", ((2, 3), np.dtype("f8"))), b]]
    digests = {layout_digest([a, b]), *(layout_digest(other) for other in others)}
    assert len(digests) == 6
    assert layout_digest([a, b]) == layout_digest(dict([a, b]).items())
    assert 0 not in digests


def test_draws_do_not_depend_on_the_session():
    assert number_of(7 << 32 | 5) == number_of(5) == 5
