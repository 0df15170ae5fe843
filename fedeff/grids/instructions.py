"""What a message tells a client about coding, what its reply tells, and how a blob travels.

Both are ConfigRecords under one name, which is added to a content on its way and taken out again
before an app or a strategy sees it. So server and clients never disagree about what is coded how:
without an instruction nothing is.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict

from fedeff.core.errors import CodecError
from fedeff.core.flower import array_record

__all__ = [
    "RECORD",
    "Answer",
    "Instruction",
    "Layout",
    "blob_of",
    "coded_record",
    "layout_digest",
    "number_of",
]

RECORD = "fedeff.codec"  # of a content, and the first word of what a client keeps

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]

_STYPE = "fedeff.codec"  # Flower's word for how an array is serialised
_BLOB = "blob"
_NUMBER = 2**32 - 1  # an exchange's name without its session


@dataclass(frozen=True)
class Instruction:
    """What the server asks of one client in one exchange, whose name no other exchange has.

    `after` names the exchange after which what the client keeps should stand, 0 for anew. `up` is the
    codec of the reply's arrays, none where it is empty; with `difference` they are coded as differences
    to what the client was sent. With `keep` the client keeps what it was sent, in addition to what it
    kept before where the message `builds_on` that; with `down_difference` coded arrays of the message
    are differences to it. `expects` is the digest of the layout that the server expects of the reply.
    """

    exchange: int
    seed: int = 0
    after: int = 0
    up: str = ""
    difference: bool = False
    keep: bool = False
    builds_on: bool = False
    down_difference: bool = False
    expects: int = 0
    scales: Mapping[str, float] = field(default_factory=dict)  # of arrays, to be shared by all

    def record(self) -> ConfigRecord:
        """The instruction as it travels; what is not said is not there."""
        values: dict[str, ConfigRecordValues] = {"exchange": self.exchange, "seed": self.seed}
        said: dict[str, ConfigRecordValues] = {
            "after": self.after,
            "up": self.up,
            "expects": self.expects,
            "difference": self.difference,
            "keep": self.keep,
            "builds-on": self.builds_on,
            "down-difference": self.down_difference,
        }
        values |= {key: value for key, value in said.items() if value}
        if self.scales:
            values["scaled-arrays"] = list(self.scales)
            values["scales"] = list(self.scales.values())
        return ConfigRecord(values)

    @classmethod
    def of(cls, content: RecordDict) -> "Instruction | None":
        """The instruction in a message's content, None where there is none.

        Raises:
            CodecError: if it is not one that a `CodecGrid` wrote.
        """
        values = _values_of(content)
        if values is None:
            return None
        names, scales = values.get("scaled-arrays", []), values.get("scales", [])
        if not isinstance(names, list) or not isinstance(scales, list) or len(names) != len(scales):
            raise CodecError(f"{RECORD} names scales {scales!r} of arrays {names!r}; expected one for each")
        return cls(
            exchange=_read(values, "exchange", int),
            seed=_read(values, "seed", int),
            after=_read(values, "after", int),
            up=_read(values, "up", str),
            difference=_read(values, "difference", bool),
            keep=_read(values, "keep", bool),
            builds_on=_read(values, "builds-on", bool),
            down_difference=_read(values, "down-difference", bool),
            expects=_read(values, "expects", int),
            scales=dict(zip(names, scales, strict=True)),
        )


@dataclass(frozen=True)
class Answer:
    """What a client says of its reply's coding.

    It went on from what it kept after the exchange `after`, 0 for anew; `fresh` says that its codec
    remembered nothing, though, since that did not fit the arrays any longer. `compact` blobs leave out the
    layout that the server expects; with `difference` they hold differences; a client that `remembers`
    goes on from this exchange next. `digest` is that of what it keeps of what it was sent.
    """

    exchange: int
    after: int = 0
    fresh: bool = False
    compact: bool = False
    difference: bool = False
    remembers: bool = False
    digest: int = 0

    def record(self) -> ConfigRecord:
        """The answer as it travels."""
        values: dict[str, ConfigRecordValues] = {"exchange": self.exchange}
        said = {
            "after": self.after,
            "fresh": self.fresh,
            "compact": self.compact,
            "difference": self.difference,
            "remembers": self.remembers,
            "digest": self.digest,
        }
        return ConfigRecord(values | {key: value for key, value in said.items() if value})

    @classmethod
    def of(cls, content: RecordDict) -> "Answer | None":
        """The answer in a reply's content, None where there is none.

        Raises:
            CodecError: if it is not one that a client of fedeff wrote.
        """
        values = _values_of(content)
        if values is None:
            return None
        return cls(
            exchange=_read(values, "exchange", int),
            after=_read(values, "after", int),
            fresh=_read(values, "fresh", bool),
            compact=_read(values, "compact", bool),
            difference=_read(values, "difference", bool),
            remembers=_read(values, "remembers", bool),
            digest=_read(values, "digest", int),
        )


def coded_record(blob: bytes) -> ArrayRecord:
    """A record of one array whose payload is the blob, without a byte more."""
    return array_record({_BLOB: Array(dtype="uint8", shape=(len(blob),), stype=_STYPE, data=blob)})


def blob_of(record: object) -> bytes | None:
    """The blob of a record that `coded_record` made; None for any other."""
    if not isinstance(record, ArrayRecord) or len(record) != 1:
        return None
    array = record.get(_BLOB)
    return array.data if array is not None and array.stype == _STYPE else None


def layout_digest(layout: Iterable[tuple[str, tuple[tuple[int, ...], np.dtype[Any]]]]) -> int:
    """Four bytes of a layout, its order included; never 0."""
    told = repr([(name, tuple(shape), np.dtype(dtype).str) for name, (shape, dtype) in layout])
    return zlib.crc32(told.encode()) or 1


def number_of(exchange: int) -> int:
    """The exchange's number in its session, from which draws are seeded: the same in every session."""
    return exchange & _NUMBER


def _values_of(content: RecordDict) -> dict[str, Any] | None:
    record = content.get(RECORD)
    return dict(record.items()) if isinstance(record, ConfigRecord) else None


def _read(values: Mapping[str, Any], key: str, kind: type) -> Any:
    """The value of a key, of this type; its zero where the key is absent."""
    value: Any = values.get(key, kind())
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise CodecError(
            f"{RECORD} has {key} = {value!r}, expected {kind.__name__}, at least 0; "
            "run the same fedeff on the server and on the clients"
        )
    return value
