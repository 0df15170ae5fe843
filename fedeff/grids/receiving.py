"""A coded reply on its way in: checked against what its client was asked, and decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from fedeff.core.errors import CodecError, ReplyError
from fedeff.core.layers import hold_record
from fedeff.grids.instructions import RECORD, Answer, blob_of
from fedeff.grids.replicas import base_of, plus
from fedeff.grids.sending import CodesRecords, Coding, Memories, Sent

__all__ = ["Received", "knows_base", "read_reply"]


@dataclass
class Received:
    """A reply's records as a strategy sees them, and what decoding them left behind."""

    memories: dict[str, Memories]  # by record
    records: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)  # by array


def read_reply(
    reply: Message, answer: Answer, sent: Sent, coding: Coding, memories: Mapping[str, Memories]
) -> Received:
    """The reply to what was sent, decoded with what is remembered of its client.

    Raises:
        CodecError: if a blob is not what the codec writes.
        ReplyError: if the client made its reply from something else than the server knows.
    """
    _check(answer, sent)
    received = Received(dict(memories))
    for name, record in reply.content.items():
        blob = blob_of(record)
        if blob is not None:
            _unpack(name, blob, answer, sent, coding, received)
        elif name != RECORD:
            received.records[name] = record
    return received


def knows_base(answer: Answer, sent: Sent) -> bool:
    """Whether the client had what the message built on, if it built on anything."""
    return answer.after == sent.instruction.after or not sent.instruction.builds_on


def _unpack(name: str, blob: bytes, answer: Answer, sent: Sent, coding: Coding, received: Received) -> None:
    codec: CodesRecords | None = coding.up
    if codec is None or not sent.instruction.up:
        raise CodecError(f"record {name!r} is coded, which was not asked for")
    expected = sent.expected if answer.compact else None
    before = received.memories.get(name, {})
    arrays, after = codec.unpack(blob, expected=expected, limit_bytes=coding.limit_bytes, memories=before)
    unsent = {array: memory for array, memory in before.items() if array not in arrays}
    received.memories[name] = {**unsent, **after}
    if coding.share_scales:
        received.scales |= codec.scales(blob, expected=expected)
    whole = plus(arrays, base_of(sent.base, name)) if answer.difference else arrays
    received.records[name] = hold_record(whole)


def _check(answer: Answer, sent: Sent) -> None:
    """Raise ReplyError unless the client made its reply from what the server knows."""
    asked, replica = sent.instruction, sent.replica
    if answer.after not in (0, asked.after):
        raise ReplyError(
            f"the client went on from exchange {answer.after}, it was asked to from {asked.after}"
        )
    knows = knows_base(answer, sent)
    if answer.difference and not (asked.difference and knows):
        raise ReplyError("it holds differences to arrays that the server does not know of")
    if replica is not None and knows and answer.digest != replica.digest:
        raise ReplyError(
            f"the client holds other arrays than it was sent (digest {answer.digest:08x}, "
            f"expected {replica.digest:08x})"
        )
    if answer.compact and sent.expected is None:
        raise ReplyError("it leaves out the layout of its arrays, which the server does not know")
