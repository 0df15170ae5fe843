"""The table of a blob's arrays: name, type and shape of each, and what they take."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedeff.compression.codec import Layout, Shape
from fedeff.compression.reading import read_varint, split, varint
from fedeff.core.errors import CodecError

__all__ = ["DIGEST_BYTES", "Table", "digest_of", "pack_table", "table_of", "taken_bytes", "unpack_table"]

Table = Mapping[str, tuple[Shape, np.dtype[Any]]]
DIGEST_BYTES = 8
_MOST_AXES = 32
# A type's number on the wire is its place here: types are only ever added at the end.
_TYPES = (
    np.dtype(bool),
    *(np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)),
    *map(np.dtype, ("<f2", "<f4", "<f8")),
)
_NUMBERS = {dtype: number for number, dtype in enumerate(_TYPES)}


def table_of(layout: Layout) -> Table:
    """The layout with little-endian types.

    Raises `CodecError`, naming the array, on a type that does not travel.
    """
    found = {}
    for name, (shape, dtype) in layout.items():
        little = np.dtype(dtype).newbyteorder("<")
        if little not in _NUMBERS:
            raise CodecError(
                f"array {name!r} is of {little.name}; what travels is booleans, integers and floats"
            )
        if len(shape) > _MOST_AXES:
            raise CodecError(f"array {name!r} has {len(shape)} axes; at most {_MOST_AXES} travel")
        found[name] = tuple(shape), little
    return found


def pack_table(table: Table) -> bytes:
    """The bytes of the table: names, types and shapes in order."""
    rows = [varint(len(table))]
    for name, (shape, dtype) in table.items():
        text = name.encode()
        numbers = (_NUMBERS[dtype], len(shape), *shape)
        rows += [varint(len(text)), text, *(varint(number) for number in numbers)]
    return b"".join(rows)


def unpack_table(payload: memoryview) -> tuple[Table, memoryview]:
    """The table and the rest of the payload; raises `CodecError` on bytes that are no table."""
    count, rest = read_varint(payload, "count of arrays")
    found: dict[str, tuple[Shape, np.dtype[Any]]] = {}
    for _ in range(count):
        length, rest = read_varint(rest, "name")
        text, rest = split(rest, length, "name")
        kind, rest = read_varint(rest, "type")
        axes, rest = read_varint(rest, "shape")
        if kind >= len(_TYPES) or axes > _MOST_AXES:
            raise CodecError(f"the blob's table has type {kind} with {axes} axes, which no array has")
        shape = []
        for _ in range(axes):
            length, rest = read_varint(rest, "shape")
            shape.append(length)
        found[_name(text, found)] = tuple(shape), _TYPES[kind]
    return found, rest


def _name(text: memoryview, taken: Mapping[str, object]) -> str:
    try:
        name = bytes(text).decode()
    except UnicodeDecodeError:
        raise CodecError("the blob's table has a name that is not UTF-8") from None
    if name in taken:
        raise CodecError(f"the blob's table has the array {name!r} twice")
    return name


def digest_of(table: Table) -> bytes:
    """Eight bytes that stand for the table where the receiver has it."""
    return hashlib.blake2b(pack_table(table), digest_size=DIGEST_BYTES).digest()


def taken_bytes(table: Table) -> int:
    """What the arrays take in memory; an axis of length 0 counts as 1, so no shape is free."""
    return sum(dtype.itemsize * math.prod(max(axis, 1) for axis in shape) for shape, dtype in table.values())
