"""The wire form: one self-describing blob per record of arrays.

    magic "fef" and version, 4 bytes | kind of table, 1 | length and text of the codec's spec
    table of names, types and shapes, or its digest of 8 bytes | each payload's length | the payloads
    CRC-32 of all that, 4 bytes

Lengths are variable: 7 bits a byte. Numbers are little-endian.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.compression.codec import Codec, Layout, Memory, NDArray, layout_of
from fedeff.compression.error_feedback import ErrorFeedback
from fedeff.compression.grammar import LONGEST_SPEC
from fedeff.compression.raw import Raw
from fedeff.compression.reading import nothing_left, read_varint, split, varint
from fedeff.compression.spec import codec_of, spec_of
from fedeff.compression.table import (
    DIGEST_BYTES,
    Table,
    digest_of,
    pack_table,
    table_of,
    taken_bytes,
    unpack_table,
)
from fedeff.compression.tern_grad import TernGrad
from fedeff.core.errors import CodecError, ConfigError

__all__ = ["Entry", "entries", "pack", "scales_of", "unpack"]

_MAGIC = b"fef\x01"
_FULL, _DIGEST = 0, 1
_CRC_BYTES = 4
_GIB = 2**30

Blob = bytes | bytearray | memoryview | NDArray


def pack(
    arrays: Mapping[str, NDArray],
    codec: Codec,
    memories: Mapping[str, Memory],
    rng: np.random.Generator,
    *,
    compact: bool = False,
) -> tuple[bytes, dict[str, Memory]]:
    """One blob of all arrays in their order, and by name what to remember of each array.

    `memories` are those of this sender, by array; arrays may be missing. `compact` leaves names,
    types and shapes out but for a digest: `unpack` must then be told them. Integers and booleans
    travel raw. Raises `CodecError`, naming the array, on NaN, infinity, or a type that does not travel.
    """
    table = table_of(layout_of(arrays))
    payloads, after = [], {}
    for name, values in arrays.items():
        one = _codec_for(codec, name, values.dtype)
        try:
            payload, memory = one.encode(values, memories.get(name, {}), rng)
        except CodecError as error:
            raise CodecError(f"array {name!r}: {error}") from error
        payloads.append(payload)
        if memory:
            after[name] = memory
    spec = spec_of(codec).encode()
    listed = bytes([_DIGEST]) + digest_of(table) if compact else bytes([_FULL]) + pack_table(table)
    lengths = b"".join(varint(len(payload)) for payload in payloads)
    blob = b"".join((_MAGIC, varint(len(spec)), spec, listed, lengths, *payloads))
    return blob + zlib.crc32(blob).to_bytes(_CRC_BYTES, "little"), after


def unpack(
    blob: Blob,
    *,
    codec: Codec | None = None,
    expected: Layout | None = None,
    limit_bytes: int = _GIB,
    memories: Mapping[str, Memory] | None = None,
) -> tuple[dict[str, NDArray], dict[str, Memory]]:
    """The arrays of a blob in its order, fresh and finite, and by name what to remember of each.

    `codec` is the one agreed upon, and a blob of another is refused. `expected` are the arrays
    agreed upon, and a blob of others is refused; without them the arrays may take `limit_bytes`.
    Decoding takes at most three times what the arrays take, and a multiple of the blob.
    `memories` are those this receiver has of the sender. Raises `CodecError`, whatever the bytes.
    """
    known = memories or {}
    arrays, after = {}, {}
    for one in entries(blob, codec, expected, limit_bytes):
        try:
            values, memory = one.codec.decode(one.payload, one.shape, one.dtype, known.get(one.name, {}))
        except CodecError as error:
            raise CodecError(f"array {one.name!r}: {error}") from error
        except MemoryError:
            raise CodecError(f"array {one.name!r} of shape {one.shape} does not fit in memory") from None
        arrays[one.name] = values
        if memory:
            after[one.name] = memory
    return arrays, after


def scales_of(
    blob: Blob, *, codec: Codec | None = None, expected: Layout | None = None, limit_bytes: int = _GIB
) -> dict[str, float]:
    """By name the scale that each array under `TernGrad` would have had unshared; others are left out.

    The largest over the senders (equation 4.4) is what `memory["shared-scale"]` of the next round should be.
    Arguments and errors are those of `unpack`.
    """
    found = {}
    for one in entries(blob, codec, expected, limit_bytes):
        inner = one.codec.codec if isinstance(one.codec, ErrorFeedback) else one.codec
        if isinstance(inner, TernGrad):
            found[one.name] = inner.own_scale(one.payload, one.shape, one.dtype)
    return found


@dataclass(frozen=True)
class Entry:
    """One array of a blob: what it is, the codec that is in charge of it, and that codec's payload."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: Codec
    payload: memoryview


def entries(blob: Blob, codec: Codec | None, expected: Layout | None, limit_bytes: int) -> Iterator[Entry]:
    """Every array of a blob whose checksum, codec and table are right."""
    body = _checked(blob)
    length, rest = read_varint(body, "spec")
    spec, rest = split(rest, min(length, LONGEST_SPEC + 1), "spec")
    used = _codec_in(bytes(spec), codec)
    table, rest = _table_in(rest, expected)
    if expected is None and taken_bytes(table) > limit_bytes:
        raise CodecError(
            f"the blob's arrays would take {taken_bytes(table)} bytes; the limit is {limit_bytes}"
        )
    lengths = []
    for _ in table:
        length, rest = read_varint(rest, "lengths")
        lengths.append(length)
    for (name, (shape, dtype)), length in zip(table.items(), lengths, strict=True):
        payload, rest = split(rest, length, f"array {name!r}")
        yield Entry(name, shape, dtype, _codec_for(used, name, dtype), payload)
    nothing_left(rest)


def _checked(blob: Blob) -> memoryview:
    """What lies between the magic and the checksum."""
    if isinstance(blob, np.ndarray):
        if blob.dtype != np.uint8:
            raise CodecError(f"the blob is an array of {blob.dtype}; a coded record is one of uint8")
        blob = np.ascontiguousarray(blob).reshape(-1).data
    view = memoryview(blob)
    data = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    if data[: len(_MAGIC)] != _MAGIC:
        raise CodecError(f"the blob begins with {bytes(data[:4])!r}; this version writes {_MAGIC!r}")
    if zlib.crc32(data[:-_CRC_BYTES]) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise CodecError("the blob's checksum is wrong: it was cut or changed on the way")
    return data[len(_MAGIC) : -_CRC_BYTES]


def _codec_in(spec: bytes, agreed: Codec | None) -> Codec:
    if agreed is not None:
        if spec != spec_of(agreed).encode():
            raise CodecError(
                f"the blob is coded by {spec.decode(errors='replace')!r}; agreed was {spec_of(agreed)!r}"
            )
        return agreed
    try:
        return codec_of(spec.decode())
    except (ConfigError, UnicodeDecodeError) as error:
        raise CodecError(f"the blob's codec is not understood: {error}") from error


def _table_in(rest: memoryview, expected: Layout | None) -> tuple[Table, memoryview]:
    kind, rest = split(rest, 1, "kind of table")
    known = None if expected is None else table_of(expected)
    if kind[0] == _FULL:
        table, rest = unpack_table(rest)
        if known is not None and table != known:
            raise CodecError(f"the blob's arrays are not those expected: {_difference(table, known)}")
        return table, rest
    digest, rest = split(rest, DIGEST_BYTES, "digest of a table")
    if kind[0] != _DIGEST or known is None:
        raise CodecError("the blob names its arrays by a digest only; give the arrays expected")
    if digest != digest_of(known):
        raise CodecError(f"the blob's {len(known)} arrays are not those expected: the digests differ")
    return known, rest


def _difference(table: Table, known: Table) -> str:
    """The first array that differs, as seen and as expected."""
    for name in (*known, *table):
        if table.get(name) != known.get(name):
            return f"{name!r} is {_told(table, name)}, expected {_told(known, name)}"
    raise AssertionError("tables that differ have an array that differs")


def _told(table: Table, name: str) -> str:
    if name not in table:
        return "absent"
    shape, dtype = table[name]
    return f"{shape} of {dtype.name}"


def _codec_for(codec: Codec, name: str, dtype: np.dtype[Any]) -> Codec:
    """The array's codec: raw for what is not of floats."""
    return codec.for_array(name) if dtype.kind == "f" else Raw()
