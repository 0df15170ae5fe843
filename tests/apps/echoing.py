"""A Grid of a few lines that answers as it is told, and the messages that tests of Grids send."""

from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import strategies as st

from fedeff.core.flower import set_message_id
from fedeff.grids.cohort import Cohort

DROPPED, FAILED = "dropped", "failed"


def arrays_of(sizes: Iterable[int]) -> ArrayRecord:
    return ArrayRecord({f"layer{i}": Array(np.zeros(size, np.float32)) for i, size in enumerate(sizes)})


def request(node, sizes=(3,), kind="train", server_round=1, group_id=None):
    content = RecordDict({"arrays": arrays_of(sizes)})
    if server_round is not None:
        content["config"] = ConfigRecord({"server-round": server_round})
    message = Message(content, node, kind, group_id=group_id)
    set_message_id(message, f"message-{node}")
    return message


def reply_to(message, sizes=(3,), **metrics):
    named = {key.replace("_", "-"): value for key, value in metrics.items()}
    return Message(RecordDict({"arrays": arrays_of(sizes), "metrics": MetricRecord(named)}), reply_to=message)


def error_to(message):
    return Message(Error(code=3, reason="raised"), reply_to=message)


def bytes_in(content: RecordDict) -> int:
    return sum(len(a.data) for record in content.array_records.values() for a in record.values())


class Echo(Grid):
    """Answers each message by `answer(message)`; None drops it. Counts what it was asked for."""

    def __init__(self, answer, lazy=False, clock=None):
        self.answer, self.lazy, self.clock = answer, lazy, clock
        self.received, self.answered, self.timeout, self.closed = [], 0, None, False
        self.waiting: dict[str, Message] = {}
        self.unsendable: dict[int, bool] = {}  # by node: whether a push gives None for it, or leaves it out

    def set_run(self, run):
        self.a_run = run

    @property
    def run(self):
        return self.a_run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self):
        return [4, 2]

    def push_messages(self, messages):
        for message in messages:
            if (node := message.metadata.dst_node_id) in self.unsendable:
                yield from [None] * self.unsendable[node]
                continue
            self.received.append(message)
            self.waiting[message.metadata.message_id] = message
            yield message.metadata.message_id

    def pull_messages(self, message_ids):
        pulled = [self.answer(self.waiting.pop(key)) for key in message_ids if key in self.waiting]
        return [reply for reply in pulled if reply is not None]

    def send_and_receive(self, messages, *, timeout=None):
        self.timeout = timeout
        self.received = messages if isinstance(messages, Cohort) else list(messages)
        replies = self._replies()
        return replies if self.lazy else list(replies)

    def _replies(self):
        try:
            for message in self.received:
                if (reply := self.answer(message)) is not None:
                    self.answered += 1
                    if self.clock is not None:
                        self.clock.now_s += 1.5
                    yield reply
        finally:
            self.closed = True


class Clock:
    now_s = 0.0


sizes = st.lists(st.integers(0, 40), max_size=3)
fates = st.sampled_from([DROPPED, FAILED]) | sizes
