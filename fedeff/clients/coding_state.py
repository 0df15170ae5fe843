"""What a client keeps for coding from one message to the next, in entries of its own of `Context.state`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedeff.core.layers import decode_record, encode_record
from fedeff.grids.instructions import RECORD
from fedeff.grids.replicas import NDArray, Replica

__all__ = ["CodingState", "read_coding_state", "write_coding_state"]

_REPLICA, _MEMORY, _REPLY = f"{RECORD}.replica", f"{RECORD}.memory", f"{RECORD}.reply."
_EXCHANGE = "exchange"

Memories = Mapping[str, Mapping[str, Mapping[str, NDArray]]]  # by record and array
Record = ArrayRecord | ConfigRecord | MetricRecord


@dataclass(frozen=True)
class CodingState:
    """What a client keeps after the exchange of this name; nothing where that is 0.

    `memories` are its codec's, by record and array, `replica` is what it holds of what it was sent,
    `reply` what it answered, in which a repeated message finds its answer.
    """

    exchange: int = 0
    memories: Memories = field(default_factory=dict)
    replica: Replica | None = None
    reply: Mapping[str, Record] = field(default_factory=dict)


def read_coding_state(state: RecordDict) -> CodingState:
    """What a client's state holds; nothing where it was lost."""
    about = state.get(RECORD)
    if not isinstance(about, ConfigRecord) or not isinstance(exchange := about.get(_EXCHANGE), int):
        return CodingState()
    memories: dict[str, dict[str, dict[str, NDArray]]] = {}
    for (record, name, key), values in _named(state.get(_MEMORY)).items():
        memories.setdefault(record, {}).setdefault(name, {})[key] = values
    replica: dict[str, dict[str, NDArray]] = {}
    for (record, name), values in _named(state.get(_REPLICA)).items():
        replica.setdefault(record, {})[name] = values
    reply: dict[str, Any] = {
        name.removeprefix(_REPLY): record for name, record in state.items() if name.startswith(_REPLY)
    }
    return CodingState(exchange, memories, Replica(replica) if _REPLICA in state else None, reply)


def write_coding_state(state: RecordDict, kept: CodingState) -> None:
    """Make `kept` what the state holds for coding; other entries stay as they are."""
    for name in [name for name in state if name == RECORD or name.startswith(f"{RECORD}.")]:
        del state[name]
    if not kept.exchange:
        return
    state[RECORD] = ConfigRecord({_EXCHANGE: kept.exchange})
    memories = {
        (record, name, key): values
        for record, arrays in kept.memories.items()
        for name, memory in arrays.items()
        for key, values in memory.items()
    }
    if memories:
        state[_MEMORY] = _named_record(memories)
    if kept.replica is not None:
        held = kept.replica.records
        state[_REPLICA] = _named_record({(r, n): v for r, arrays in held.items() for n, v in arrays.items()})
    for name, record in kept.reply.items():
        state[f"{_REPLY}{name}"] = record


def _named_record(arrays: Mapping[Any, NDArray]) -> ArrayRecord:
    """One array a tuple of names; these may hold any character, so keys are JSON."""
    return encode_record({json.dumps(key): np.asarray(values) for key, values in arrays.items()})


def _named(record: Any) -> dict[tuple[str, ...], NDArray]:
    if not isinstance(record, ArrayRecord):
        return {}
    return {tuple(json.loads(key)): values for key, values in decode_record(record).items()}
