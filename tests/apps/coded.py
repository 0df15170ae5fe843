"""A Grid that answers each message at once by a client with `codec_mod`, and loses or spoils some on the way.

A client moves every float by a seeded draw of (node, how often it trained) and counts in its state how often
it did. `faults` maps (node, exchange by number from 1) to "request" and "reply" (lost on the way), "raise",
"forget" (its state is gone before the message), "flip" (a bit of its blob) and "twice" (asked two times
over, the second reply counts).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.clients.coding import codec_mod
from fedeff.clients.coding_state import CodingState, read_coding_state
from fedeff.core.flower import CLIENT_RAISED, error_reply, set_message_id, with_content
from fedeff.core.layers import decode_record, encode_record, payload_bytes
from fedeff.core.lists import NO_PART, entries
from fedeff.core.parts import put, take
from fedeff.grids import Cohort
from fedeff.grids.instructions import RECORD, Answer, blob_of, coded_record

Arrays = dict[str, np.ndarray]

SHAPES = {"fc1.weight": (12, 5), "fc1.bias": (12,), "fc2.weight": (4, 12), "steps": ()}


def model(seed: int = 0) -> ArrayRecord:
    rng = np.random.default_rng(seed)
    arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items() if shape}
    return encode_record({**arrays, "steps": np.array(7, np.int64)})


def moved(values: np.ndarray, node: int, times: int) -> np.ndarray:
    """What training makes of an array."""
    if values.dtype.kind != "f":
        return values + 1
    rng = np.random.default_rng([node, times, values.size])
    return np.asarray(values + rng.normal(scale=0.1, size=values.shape), values.dtype)


def train(message: Message, context: Context) -> Message:
    """A client that knows nothing of codecs; parts of the model that it was not sent it keeps."""
    config = message.content.get("config", ConfigRecord())
    count = context.state.get("count", MetricRecord({"trained": 0}))["trained"] + 1
    context.state["count"] = MetricRecord({"trained": count})
    held = dict(decode_record(context.state["model"])) if "model" in context.state else {}
    received = {**held, **decode_record(message.content["arrays"])}
    arrays = {key: moved(values, context.node_id, count) for key, values in received.items()}
    if "cycle" in config:
        context.state["model"] = encode_record(arrays)
    if config.get("reply-with") == "displacement":
        arrays = {key: values - received[key] for key, values in arrays.items()}
    due = config.get("layers-due")
    sent = arrays if due is None else take(arrays, entries(due, NO_PART))
    metrics = MetricRecord({"num-examples": 1 + context.node_id % 3, "partition-id": context.node_id})
    return Message(RecordDict({"arrays": encode_record(sent), "metrics": metrics}), reply_to=message)


ROWS = {"fc1.weight[0:4]": np.full((4, 5), 9, np.float32), "fc2.weight": np.full((4, 12), 8, np.float32)}


def in_cycles(message, context):
    """A client that knows its whole model, and adds 1 to it in each round."""
    held = decode_record(context.state["own"]) if "own" in context.state else {}
    received = decode_record(message.content["arrays"])
    weights = dict(received) if message.content["config"]["cycle-round"] == 0 else put(held, received)
    weights = {key: values + 1 for key, values in weights.items()}
    context.state["own"] = encode_record(weights)
    return Message(RecordDict({"arrays": encode_record(weights)}), reply_to=message)


class Direct(Grid):
    """See above. `contents` are those of messages as they travelled, by (node, exchange); so `replies`."""

    run = None

    def __init__(
        self, nodes: int, faults: Mapping[tuple[int, int], str] | None = None, app: Any = train
    ) -> None:
        self.nodes, self.faults, self.app = nodes, dict(faults or {}), app
        self.fired: Counter[str] = Counter()
        self.contexts: dict[int, Context] = {}
        self.contents: dict[tuple[int, int], RecordDict] = {}
        self.replies: dict[tuple[int, int], Message] = {}
        self.exchanges = self.messages = 0
        self.inbox: dict[str, Message] = {}
        self.streams = False

    def set_run(self, run: Any) -> None: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("a strategy only sends and receives")

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.nodes + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.exchanges += 1
        ids = []
        for message in messages:
            self.messages += 1
            set_message_id(message, f"m{self.messages}")
            ids.append(f"m{self.messages}")
            if (reply := self._answer(message)) is not None:
                self.inbox[f"m{self.messages}"] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        return [self.inbox.pop(key) for key in list(self.inbox) if key in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        replies = self.pull_messages(self.push_messages(messages))
        return iter(replies) if isinstance(messages, Cohort) else replies

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        at = node, self.exchanges
        self.contents[at] = message.content
        fault = self.faults.get(at, "")
        self.fired[fault] += 1
        if fault == "request":
            return None
        if fault == "forget":
            self.contexts.pop(node, None)
        reply = self._called(message, fault)
        if fault == "twice":
            reply = self._called(message, "")
        self.replies[at] = reply
        if fault == "flip":
            return _flipped(reply)
        return None if fault == "reply" else reply

    def _called(self, message: Message, fault: str) -> Message:
        node = message.metadata.dst_node_id
        node_config = {"partition-id": node, "num-partitions": self.nodes}
        kept = self.contexts.get(node, Context(1, node, node_config, RecordDict(), {}))
        context = Context(1, node, node_config, RecordDict(dict(kept.state.items())), {})
        own = with_content(message, RecordDict(dict(message.content.items())))
        try:
            if fault == "raise":
                raise RuntimeError("the client's own mistake")
            reply = codec_mod(own, context, self.app)
        except Exception as error:
            return error_reply(message, CLIENT_RAISED, str(error))
        self.contexts[node] = context
        return reply


def _flipped(reply: Message) -> Message:
    """The reply with one bit of its first blob changed."""
    records = dict(reply.content.items())
    name, blob = next((key, blob) for key, record in records.items() if (blob := blob_of(record)) is not None)
    place = len(blob) // 2
    records[name] = coded_record(blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
    return with_content(reply, RecordDict(records))


def asked(
    grid: Grid, arrays: ArrayRecord, nodes: Iterable[int] | None = None, **config: Any
) -> list[Message]:
    """Train messages that share one content; settings by snake-case key."""
    kebab = {key.replace("_", "-"): value for key, value in config.items()}
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(kebab)})
    chosen = grid.get_node_ids() if nodes is None else nodes
    return [Message(content, dst_node_id=node, message_type="train") for node in chosen]


def arrays_of(reply: Message) -> Arrays:
    return dict(decode_record(reply.content["arrays"]))


def blobs_of(grid: Direct, exchange: int) -> list[bytes]:
    """What clients sent in an exchange, in the order of nodes."""
    found = [reply for (_, at), reply in sorted(grid.replies.items(), key=lambda x: x[0]) if at == exchange]
    return [blob_of(reply.content["arrays"]) or b"" for reply in found if not reply.has_error()]


def uplink(grid: Direct, exchange: int) -> int:
    return sum(payload_bytes(reply.content) for (_, at), reply in grid.replies.items() if at == exchange)


def told(grid: Direct, node: int, exchange: int) -> dict[str, Any]:
    """The instruction that a client got."""
    return dict(grid.contents[node, exchange][RECORD].items())


def exchange(grid: Grid, messages: Iterable[Message]) -> list[Message]:
    return list(grid.send_and_receive(messages))


def displaced(grid: Grid, nodes: Iterable[int] | None = None) -> list[Message]:
    """Messages whose replies are what training moved."""
    return asked(grid, model(), nodes, reply_with="displacement")


def kept(grid: Direct, node: int) -> CodingState:
    return read_coding_state(grid.contexts[node].state)


def answers(grid: Direct, node: int, exchanges: Iterable[int]) -> list[Answer]:
    found = [Answer.of(grid.replies[node, at].content) for at in exchanges]
    return [answer for answer in found if answer is not None]
