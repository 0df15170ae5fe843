"""What a `CodecGrid` knows of each client that keeps something: replicas, and what decoding remembers."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from safetensors.numpy import load, save

from fedeff.core.errors import ReplyError, ResumeError
from fedeff.core.state import StateStore
from fedeff.grids.replicas import NDArray, Replica
from fedeff.grids.sending import Known, Memories, Sent

__all__ = ["CodedNodes"]

_NO_CYCLE = _NO_REPLICA = -1


class CodedNodes:
    """Clients by node id, those that keep something alone.

    What decoding remembers of a client (EF21: a model each) lies in a store of client states, under
    keys below 0, which no partition has: so it is bounded in memory, and part of a checkpoint of it.
    """

    def __init__(self, memories: StateStore) -> None:
        self._memories = memories
        self._known: dict[int, Known] = {}
        self._stands: dict[int, int] = {}  # the exchange after which a client's memory here stands
        self._under_way: dict[int, dict[int, Sent]] = {}  # by node and exchange

    def of(self, node: int) -> Known | None:
        """What is known of a client; None where it keeps nothing."""
        return self._known.get(node)

    def send(self, node: int, sent: Sent, most: int) -> None:
        """Note that a message is on its way, of at most so many to this client."""
        waiting = self._under_way.setdefault(node, {})
        waiting[sent.instruction.exchange] = sent
        while len(waiting) > most:
            del waiting[next(iter(waiting))]
        if sent.replica is not None or node in self._known:
            self._known[node] = Known(sent.instruction.exchange, sent.cycle, sent.replica)

    def take(self, node: int, exchange: int) -> Sent | None:
        """What was sent to a client in this exchange, no longer under way; None where nothing is."""
        waiting = self._under_way.get(node, {})
        sent = waiting.pop(exchange, None)
        if not waiting:
            self._under_way.pop(node, None)
        return sent

    def give_up(self, node: int, exchange: int) -> None:
        """Nobody waits for an answer any longer: what the client made of the message is not known."""
        if self.take(node, exchange) is not None:
            self.forget(node)

    def forget(self, node: int) -> None:
        """Nothing is known of what the client keeps: both sides begin anew."""
        self._known.pop(node, None)
        if self._stands.pop(node, None) is not None:
            self._memories.put(~node, None)

    def forget_all(self) -> None:
        """Nothing is known of what any client keeps."""
        for node in {*self._known, *self._stands}:
            self.forget(node)

    def memories(self, node: int, after: int) -> Mapping[str, Memories]:
        """What decoding remembers of a client after an exchange, by record.

        Raises:
            ReplyError: if that is not where the memory here stands.
        """
        if not after:
            return {}
        if self._stands.get(node) != after:
            raise ReplyError(
                f"the client went on from exchange {after}, the server's memory of it stands after "
                f"{self._stands.get(node, 0)}; both begin anew"
            )
        held = self._memories.get(~node)
        return {} if held is None else _nested(load(held))

    def stand(
        self, node: int, sent: Sent, memories: Mapping[str, Memories], *, replica: Replica | None
    ) -> None:
        """Note an answer: the client keeps what it was sent (`replica`), and the codec what it remembers."""
        exchange = sent.instruction.exchange
        last = max([exchange, *self._under_way.get(node, {})])
        known = self._known.get(node, Known(last, sent.cycle, replica))
        # With messages under way the replica is that which their clients will hold.
        self._known[node] = known if last > exchange else replace(known, replica=replica)
        flat = _flat(memories)
        if flat or node in self._stands:
            self._memories.put(~node, save(flat) if flat else None)
        self._stands[node] = exchange

    def state(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Who is known, and the replicas' arrays, each distinct one once.

        Clients with a message under way are left out: both sides begin anew with them.
        """
        nodes = sorted(node for node in self._known if node not in self._under_way)
        replicas: dict[int, tuple[int, Replica]] = {}
        rows = []
        for node in nodes:
            known, place = self._known[node], _NO_REPLICA
            if known.replica is not None:
                place = replicas.setdefault(id(known.replica), (len(replicas), known.replica))[0]
            cycle = _NO_CYCLE if known.cycle is None else known.cycle
            rows.append([self._stands.get(node, 0), cycle, place])
        table = {
            "nodes": np.array(nodes, np.uint64),
            "standing": np.array(rows, np.int64).reshape(-1, 3),
        }
        arrays = {
            json.dumps([place, record, name]): values
            for place, replica in replicas.values()
            for record, held in replica.records.items()
            for name, values in held.items()
        }
        return table, arrays

    def restore(self, table: Mapping[str, NDArray], arrays: Mapping[str, NDArray]) -> None:
        """Go on from what `state` returned; the store of memories was restored before.

        Raises:
            ResumeError: if that is not what a `CodecGrid` keeps.
        """
        records: dict[int, dict[str, dict[str, NDArray]]] = {}
        try:
            for key, values in arrays.items():
                place, record, name = json.loads(key)
                records.setdefault(place, {}).setdefault(record, {})[name] = values
            replicas = {place: Replica(held) for place, held in records.items()}
            rows = zip(table["nodes"].tolist(), table["standing"].tolist(), strict=True)
            for node, (stands, cycle, place) in rows:
                held = replicas[place] if place != _NO_REPLICA else None
                self._known[node] = Known(stands, None if cycle == _NO_CYCLE else cycle, held)
                self._stands[node] = stands
        except (KeyError, ValueError, TypeError) as error:
            raise ResumeError(
                f"a checkpoint's codec state cannot be read: {error}; start a new run"
            ) from error


def _flat(memories: Mapping[str, Memories]) -> dict[str, NDArray]:
    """One array a key; names may hold any character, so keys are JSON."""
    return {
        json.dumps([record, name, key]): np.asarray(values, order="C")
        for record, arrays in memories.items()
        for name, memory in arrays.items()
        for key, values in memory.items()
    }


def _nested(flat: Mapping[str, NDArray]) -> dict[str, dict[str, dict[str, NDArray]]]:
    memories: dict[str, dict[str, dict[str, NDArray]]] = {}
    for key, values in flat.items():
        record, name, inner = json.loads(key)
        memories.setdefault(record, {}).setdefault(name, {})[inner] = values
    return memories
