"""The messages of one exchange on their way out: coded where asked for, each with its client's instruction.

Messages that shared a content and whose clients are told the same share one again, so that an engine
packs it once, and a record is coded once for all whom it finds in the same place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedeff.core.errors import ConfigError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode_record
from fedeff.core.lists import NO_PART, entries
from fedeff.core.parts import key_of, shape_of
from fedeff.core.rng import generator
from fedeff.grids.instructions import RECORD, Instruction, Layout, coded_record, layout_digest, number_of
from fedeff.grids.replicas import Arrays, NDArray, Replica, has_reference, less, plus

__all__ = ["CodesRecords", "Coding", "Known", "Memories", "Sending", "Sent", "readable"]

Memories = Mapping[str, Mapping[str, NDArray]]  # what a codec remembers, by array

_EXACT = "correction"  # a record that a client adds to what it has: what coding lost of it would add up
_NPY = "numpy.ndarray"
_NOTHING = Replica()
_NO_ARRAYS: Arrays = {}


class CodesRecords(Protocol):
    """A codec of whole records, such as `fedeff.compression.RecordCodec`."""

    @property
    def spec(self) -> str:
        """What the other side makes an equal codec from."""
        ...

    def pack(
        self, arrays: Arrays, memories: Memories, rng: np.random.Generator, *, compact: bool = False
    ) -> tuple[bytes, Memories]:
        """One blob of the arrays, and what to remember of each; a compact one leaves out their layout."""
        ...

    def unpack(
        self, blob: bytes, *, expected: Layout | None, limit_bytes: int, memories: Memories
    ) -> tuple[Arrays, Memories]:
        """The arrays of a blob, and what to remember of each. Raises CodecError and nothing else."""
        ...

    def scales(self, blob: bytes, *, expected: Layout | None) -> Mapping[str, float]:
        """The scales of a blob's arrays that may be shared by all. Raises CodecError."""
        ...


@dataclass(frozen=True)
class Coding:
    """What is coded, and how; see `CodecGrid`."""

    up: CodesRecords | None = None
    down: CodesRecords | None = None
    difference: bool = True
    down_difference: bool = False
    share_scales: bool = False
    seed: int = 0
    limit_bytes: int = 2**30


@dataclass(frozen=True)
class Known:
    """What is known of a client: the last exchange it was asked in, what it holds of what it was sent."""

    last: int = 0
    cycle: int | None = None
    replica: Replica | None = None


@dataclass(frozen=True)
class Sent:
    """A message under way: with what its reply is read."""

    instruction: Instruction
    expected: Layout | None
    base: Mapping[str, Arrays]  # by record: what arrays of the reply may be differences to
    cycle: int | None = None
    replica: Replica | None = None  # what the client then keeps; None where it keeps nothing


@dataclass(frozen=True)
class _Asked:
    """What a content's configuration says that matters to coding."""

    cycle: int | None = None
    weights: bool = True  # replies are weights, not differences or gradients
    due: tuple[str, ...] | None = None

    @classmethod
    def of(cls, content: RecordDict) -> "_Asked":
        values: dict[str, Any] = {}
        for record in content.values():
            if isinstance(record, ConfigRecord):
                values.update(record.items())
        cycle, due = values.get("cycle"), values.get("layers-due")
        return cls(
            cycle if isinstance(cycle, int) else None,
            values.get("reply-with") != "displacement" and values.get("procedure", "train") == "train",
            entries(due, NO_PART) if isinstance(due, list) else None,
        )


@dataclass
class Sending:
    """One exchange: `instructed` gives each message as it travels, `sent` holds what was asked of whom.

    `layouts` are those of the arrays by record that were sent so far; they are brought up to date.
    """

    coding: Coding
    exchange: int
    layouts: dict[str, dict[str, tuple[tuple[int, ...], np.dtype[Any]]]]
    scales: Mapping[str, float]
    sent: dict[int, Sent] = field(default_factory=dict)
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _coded: dict[tuple[int, int], tuple[ArrayRecord, Arrays]] = field(default_factory=dict)
    _made: dict[tuple[int, int, bool, int], tuple[RecordDict, Sent]] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)  # whatever is known by its id above

    def instructed(self, message: Message, known: Known | None) -> Message:
        """The message as it travels to a client of which this is known."""
        content, known = message.content, known or Known()
        asked = self._asks(content)
        trains = message.metadata.message_type.partition(".")[0] == "train"
        keeps = self._keeps(asked, trains)
        goes_on = keeps and (self._differs_down or known.cycle == asked.cycle)
        base = known.replica if goes_on else None
        last = known.last if keeps or (trains and self.coding.up) else 0
        key = (id(content), id(base), trains, last)
        if key not in self._made:
            self._made[key] = self._make(content, asked, trains, base, last)
            self._alive.append(base)
        made, sent = self._made[key]
        if sent.instruction.up or sent.instruction.keep:
            self.sent[message.metadata.dst_node_id] = sent
        return with_content(message, made)

    @property
    def _differs_down(self) -> bool:
        return self.coding.down is not None and self.coding.down_difference

    def _keeps(self, asked: _Asked, trains: bool) -> bool:
        """Whether clients keep what they are sent: for what comes down, or for what they send later."""
        earlier = asked.cycle is not None and self.coding.difference and asked.weights
        return self._differs_down or (trains and self.coding.up is not None and earlier)

    def _asks(self, content: RecordDict) -> _Asked:
        if id(content) not in self._asked:
            self._alive.append(content)
            self._asked[id(content)] = _Asked.of(content)
        return self._asked[id(content)]

    def _make(
        self, content: RecordDict, asked: _Asked, trains: bool, base: Replica | None, last: int
    ) -> tuple[RecordDict, Sent]:
        """The content with what it carries coded and the instruction, and what is noted of it."""
        coding, keeps = self.coding, self._keeps(asked, trains)
        self._learn(content, asked)
        records: dict[str, Any] = dict(content.items())
        received: dict[str, Arrays] = {}
        for name, record in content.items():
            if isinstance(record, ArrayRecord) and name != _EXACT and readable(record):
                records[name], received[name] = self._down(name, record, base)
        replica = (base or Replica()).taking(received) if keeps else None
        expected = self._expected(content, asked) if trains and coding.up else None
        instruction = Instruction(
            self.exchange,
            seed=coding.seed,
            after=last,
            up=coding.up.spec if trains and coding.up else "",
            difference=trains and coding.up is not None and coding.difference and asked.weights,
            keep=keeps,
            builds_on=base is not None,
            down_difference=self._differs_down,
            expects=layout_digest(expected.items()) if expected else 0,
            scales=self.scales if trains else {},
        )
        records[RECORD] = instruction.record()
        held = replica.records if replica else received
        return RecordDict(records), Sent(instruction, expected, held, asked.cycle, replica)

    def _down(self, name: str, record: ArrayRecord, base: Replica | None) -> tuple[ArrayRecord, Arrays]:
        """A record as it travels, and as the client will read it."""
        if self.coding.down is None or not record:
            return record, decode_record(record)
        held = (base or _NOTHING).records.get(name, _NO_ARRAYS) if self._differs_down else None
        key = id(record), id(held)
        if key not in self._coded:
            self._alive += (record, held)
            self._coded[key] = self._encoded(self.coding.down, record, held)
        return self._coded[key]

    def _encoded(
        self, codec: CodesRecords, record: ArrayRecord, held: Arrays | None
    ) -> tuple[ArrayRecord, Arrays]:
        """Coded; where differences are asked for and some array has nothing to differ from, as it is."""
        arrays = decode_record(record)
        if held is not None and not all(has_reference(held, name, v) for name, v in arrays.items()):
            return record, arrays
        rng = generator(
            self.coding.seed,
            purpose="down codec",
            round=number_of(self.exchange),
            client=len(self._coded),
        )
        blob, memories = codec.pack(arrays if held is None else less(arrays, held), {}, rng)
        if any(memories.values()):
            raise ConfigError(
                f"the codec {codec.spec!r} remembers what it sent, but all clients are sent the same; "
                "take one without memory on the way down, with down-difference what it loses is made up for"
            )
        read, _ = codec.unpack(blob, expected=None, limit_bytes=self.coding.limit_bytes, memories={})
        return coded_record(blob), read if held is None else plus(read, held)

    def _learn(self, content: RecordDict, asked: _Asked) -> None:
        """Note the layouts of the arrays; within a cycle a message may carry but some of them.

        Of what the arrays' bytes say: the arrays of Flower's older apps name neither dtype nor shape.
        """
        for name, record in content.items():
            if isinstance(record, ArrayRecord) and name != _EXACT and readable(record):
                arrays = decode_record(record)
                told = {key: (v.shape, v.dtype) for key, v in arrays.items() if key_of(key) == key}
                self.layouts[name] = told if asked.cycle is None else self.layouts.get(name, {}) | told

    def _expected(self, content: RecordDict, asked: _Asked) -> Layout | None:
        """The layout of a reply with what is due of the one record of arrays; None where it is not known."""
        names = [n for n, record in content.items() if isinstance(record, ArrayRecord) and n != _EXACT]
        known = self.layouts.get(names[0], {}) if len(names) == 1 else {}
        return _parts_of(known, known if asked.due is None else asked.due)


def readable(record: ArrayRecord) -> bool:
    """Whether every array of the record is NumPy's, of a dtype that NumPy itself has."""
    return all(array.stype == _NPY and array.dtype != "bfloat16" for array in record.values())


def _parts_of(layout: Layout, parts: Iterable[str]) -> Layout | None:
    found = {}
    for part in parts:
        if key_of(part) not in layout:
            return None
        shape, dtype = layout[key_of(part)]
        try:
            found[part] = shape_of(part, shape) if part != key_of(part) else shape, dtype
        except ConfigError:
            return None
    return found or None
