"""A Grid made of functions, and replies made of numbers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.flower import set_task_identity
from fedeff.core.layers import encode_record
from fedeff.grids.cohort import Cohort, Folded, Receipt


@pytest.fixture(scope="session", autouse=True)
def _task_identity() -> None:
    """Messages can be made, as under `flwr run`."""
    set_task_identity(1)


def reply_with(
    partition: int | None,
    arrays: Mapping[str, np.ndarray] | ArrayRecord,
    weight: Any = 1,
    *,
    node: int | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Message:
    """A train reply; its node id is chosen to sort against its partition."""
    node = 10_000 - (partition or 0) if node is None else node
    request = Message(RecordDict(), dst_node_id=node, message_type="train")
    record = arrays if isinstance(arrays, ArrayRecord) else encode_record(arrays)
    numbers = dict(metrics or {})
    if weight is not None:
        numbers["num-examples"] = weight
    if partition is not None:
        numbers["partition-id"] = partition
    return Message(RecordDict({"arrays": record, "metrics": MetricRecord(numbers)}), reply_to=request)


def error_from(node: int, reason: str) -> Message:
    request = Message(RecordDict(), dst_node_id=node, message_type="train")
    return Message(Error(code=1, reason=reason), reply_to=request)


class FunctionGrid(Grid):
    """Clients are one function of (partition, message); replies come as told.

    `replies`: "list" in order, "shuffled", or "streamed" (what an engine of fedeff does with a
    Cohort, folding blocks of `block` clients where the cohort has a fold).
    """

    def __init__(
        self,
        client: Callable[[int, Message], Message | None],
        nodes: int,
        replies: str = "list",
        block: int = 3,
    ) -> None:
        self.client, self.replies, self.block = client, replies, block
        self.nodes = {100 + 7 * partition: partition for partition in range(nodes)}
        self.sent: list[list[Message]] = []

    run = property(lambda self: None)

    def set_run(self, run: Any) -> None: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("a strategy only sends and receives")

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise AssertionError("a strategy only sends and receives")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise AssertionError("a strategy only sends and receives")

    def get_node_ids(self) -> list[int]:
        return sorted(self.nodes, key=lambda node: node % 5)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        fold = messages.fold if isinstance(messages, Cohort) else None
        requests = list(messages)
        self.sent.append(requests)
        replies = [self.client(self.nodes[one.metadata.dst_node_id], one) for one in requests]
        if self.replies == "shuffled":
            np.random.default_rng(len(self.sent)).shuffle(replies)
        if self.replies != "streamed":
            return [reply for reply in replies if reply is not None]
        return self._streamed(replies, fold)

    def _streamed(self, replies: list[Message | None], fold: Any) -> Iterator[Message | Folded]:
        here = [reply for reply in replies if reply is not None]
        if fold is None:
            yield from here
            return
        for start in range(0, len(here), self.block):
            total, errors = None, []
            for reply in here[start : start + self.block]:
                if reply.has_error():
                    errors.append(reply)
                else:
                    total = fold.add(total, reply)
            if total is not None:
                for values in total.sums.values():
                    values.flags.writeable = False  # as arrays from shared memory are
                yield Folded(total, (Receipt(1, 0, 0),))
            yield from errors


@pytest.fixture(scope="session")
def make_reply() -> Callable[..., Message]:
    return reply_with


@pytest.fixture(scope="session")
def make_error() -> Callable[[int, str], Message]:
    return error_from


@pytest.fixture(scope="session")
def make_grid() -> type[FunctionGrid]:
    return FunctionGrid
