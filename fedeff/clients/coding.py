"""Coded arrays on the client's side: a Flower mod, and the same for whole blocks of clients.

A `CodecGrid` says in each message what is coded and how; without its instruction nothing is done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedeff.clients.coding_state import CodingState, read_coding_state, write_coding_state
from fedeff.compression import RecordCodec, unpack
from fedeff.core.errors import CodecError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.rng import generator
from fedeff.grids.instructions import (
    RECORD,
    Answer,
    Instruction,
    blob_of,
    coded_record,
    layout_digest,
    number_of,
)
from fedeff.grids.replicas import Arrays, NDArray, Replica, base_of, less, plus
from fedeff.grids.sending import readable

__all__ = ["codec_mod", "coded_block", "decoded_content"]

Result = Message | Exception
RunsBlock = Callable[[Sequence[Message], Sequence[Context]], list[Result]]
Memories = Mapping[str, Mapping[str, NDArray]]

_SHARED_SCALE = "shared-scale"  # where a codec finds the scale that all clients use, as in its memory


def codec_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower mod: what the message carries decoded before the app sees it, its reply coded afterwards.

    Give it first, so that it is the outermost one: mods that clip or add noise must see plain arrays.

    >>> app = ClientApp(mods=[codec_mod])  # doctest: +SKIP

    Raises:
        CodecError: if the message cannot be decoded with what the client keeps, or the reply holds NaN
            or infinity. Flower then answers with an error, and the server begins anew with this client.
    """
    opened = _opened(message, context)
    if opened is None:
        return call_next(message, context)
    if isinstance(opened, Message):
        return opened
    return _closed(opened, call_next(opened.message, context))


def coded_block(run: RunsBlock, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Result]:
    """What `run` gives for a block of clients, whose messages and replies may be coded, one result a message.

    `run` gets the decoded messages of those that have to work; who fails fails alone.
    """
    if not any(message.has_content() and RECORD in message.content for message in messages):
        return run(messages, contexts)
    results: dict[int, Result] = {}
    waiting: dict[int, _Opened | None] = {}
    for place, (message, context) in enumerate(zip(messages, contexts, strict=True)):
        try:
            opened = _opened(message, context)
        except Exception as error:
            results[place] = error
            continue
        if isinstance(opened, Message):
            results[place] = opened
        else:
            waiting[place] = opened
    asked = [messages[place] if opened is None else opened.message for place, opened in waiting.items()]
    answers = run(asked, [contexts[place] for place in waiting])
    for (place, opened), answer in zip(waiting.items(), answers, strict=True):
        results[place] = _closed_result(opened, answer)
    return [results[place] for place in range(len(messages))]


@dataclass(frozen=True)
class _Opened:
    """A message as the app sees it, and what its reply is coded with."""

    message: Message
    context: Context
    instruction: Instruction
    kept: CodingState  # from which the client goes on; empty where it begins anew
    base: Mapping[str, Arrays] | None  # by record: what arrays of the reply are told as differences to
    replica: Replica | None  # what the client keeps of what it was sent


def _opened(message: Message, context: Context) -> _Opened | Message | None:
    """The message decoded; None where nothing is coded; the reply where it was answered before."""
    instruction = Instruction.of(message.content) if message.has_content() else None
    if instruction is None:
        return None
    keeps = bool(instruction.up) or instruction.keep
    kept = read_coding_state(context.state) if keeps else CodingState()
    if kept.exchange == instruction.exchange and kept.reply:
        return Message(RecordDict({**kept.reply}), reply_to=message)
    if kept.exchange != instruction.after or not instruction.after:
        kept = CodingState()
    held = kept.replica if instruction.builds_on else None
    content, received = decoded_content(message.content, instruction, held)
    replica = (held or Replica()).taking(received) if instruction.keep else None
    base: Mapping[str, Arrays] | None = None
    if instruction.difference and (held is not None or not instruction.builds_on):
        base = received if replica is None else replica.records
    return _Opened(with_content(message, content), context, instruction, kept, base, replica)


def decoded_content(
    content: RecordDict, instruction: Instruction, held: Replica | None
) -> tuple[RecordDict, dict[str, Arrays]]:
    """The content as the app sees it, and its arrays by record; `held` is what a message builds on."""
    records: dict[str, Any] = {}
    received: dict[str, Arrays] = {}
    for name, record in content.items():
        if name == RECORD:
            continue
        records[name] = record
        blob = blob_of(record)
        if blob is not None:
            received[name] = _unpacked(name, blob, instruction, held)
            records[name] = encode_record(received[name])
        elif isinstance(record, ArrayRecord) and name != "correction" and readable(record):
            received[name] = decode_record(record)
    return RecordDict(records), received


def _unpacked(name: str, blob: bytes, instruction: Instruction, held: Replica | None) -> Arrays:
    arrays, _ = unpack(blob)
    if not instruction.down_difference:
        return arrays
    if held is None or name not in held.records:
        raise CodecError(
            f"record {name!r} is a difference to what this client was sent before, which it does not hold "
            "(its state was lost, or a message never came); the server begins anew with it"
        )
    return plus(arrays, held.records[name])


def _closed_result(opened: _Opened | None, answer: Result) -> Result:
    if opened is None or not isinstance(answer, Message):
        return answer
    try:
        return _closed(opened, answer)
    except Exception as error:
        return error


def _closed(opened: _Opened, reply: Message) -> Message:
    """The reply as it travels; what the client keeps goes to its state."""
    instruction, kept = opened.instruction, opened.kept
    if reply.has_error() or not (instruction.up or instruction.keep):
        return reply
    coded = _Coded(dict(reply.content.items()), {name: held for name, held in kept.memories.items() if held})
    if instruction.up:
        try:
            coded = _encoded(opened, reply.content, kept.memories)
        except CodecError:
            if not kept.memories:
                raise
            # What is remembered may be of arrays that were of another shape.
            coded = replace(_encoded(opened, reply.content, {}), fresh=True)
    answer = Answer(
        instruction.exchange,
        after=kept.exchange,
        fresh=coded.fresh,
        compact=coded.compact,
        difference=opened.base is not None,
        remembers=bool(coded.memories),
        digest=opened.replica.digest if opened.replica else 0,
    )
    records = {**coded.records, RECORD: answer.record()}
    _keep(opened, coded.memories, records)
    return with_content(reply, RecordDict(records))


@dataclass(frozen=True)
class _Coded:
    """A reply's records as they travel, and what the codec remembers of them."""

    records: dict[str, Any]
    memories: Mapping[str, Memories]
    compact: bool = False
    fresh: bool = False


def _encoded(opened: _Opened, content: RecordDict, memories: Mapping[str, Memories]) -> _Coded:
    """The reply's arrays coded, with what is remembered of arrays that are not sent now kept."""
    instruction = opened.instruction
    rng = _generator(instruction, opened.context)
    records: dict[str, Any] = dict(content.items())
    after, compact = dict(memories), False
    chosen = [name for name, record in records.items() if _is_coded(record)]
    for name in chosen:
        arrays = decode_record(records[name])
        compact = len(chosen) == 1 and layout_digest(_layout(arrays)) == instruction.expects
        told = arrays if opened.base is None else less(arrays, base_of(opened.base, name))
        blob, after[name] = _packed(told, instruction, memories.get(name, {}), rng, compact)
        records[name] = coded_record(blob)
    return _Coded(records, {name: held for name, held in after.items() if held}, compact)


def _packed(
    arrays: Arrays, instruction: Instruction, memories: Memories, rng: np.random.Generator, compact: bool
) -> tuple[bytes, dict[str, Mapping[str, NDArray]]]:
    """The blob, and all that the codec remembers of this record's arrays, those not sent now included."""
    scales = {name: scale for name, scale in instruction.scales.items() if name in arrays}
    told = {name: memories.get(name, {}) for name in arrays}
    for name, scale in scales.items():
        told[name] = {**told[name], _SHARED_SCALE: np.array(scale)}
    blob, after = RecordCodec.of(instruction.up).pack(arrays, told, rng, compact=compact)
    unsent = {name: memory for name, memory in memories.items() if name not in arrays}
    return blob, {**unsent, **after}


def _keep(opened: _Opened, memories: Mapping[str, Memories], reply: Mapping[str, Any]) -> None:
    """Write what the next message goes on from; a client that keeps nothing has no state."""
    state = opened.context.state
    if memories or opened.replica is not None:
        exchange = opened.instruction.exchange
        write_coding_state(state, CodingState(exchange, memories, opened.replica, reply))
    elif RECORD in state:
        write_coding_state(state, CodingState())


def _is_coded(record: object) -> bool:
    return isinstance(record, ArrayRecord) and len(record) > 0 and readable(record)


def _layout(arrays: Arrays) -> list[tuple[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
    return [(name, (values.shape, values.dtype)) for name, values in arrays.items()]


def _generator(instruction: Instruction, context: Context) -> np.random.Generator:
    """Draws by the partition, where the client has one: the same in every runtime."""
    partition = context.node_config.get("partition-id")
    client = partition if type(partition) is int and partition >= 0 else context.node_id
    return generator(instruction.seed, purpose="codec", round=number_of(instruction.exchange), client=client)
