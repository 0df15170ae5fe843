"""A Grid that lets no reply pass that is larger than anything that was asked for could be."""

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError
from fedeff.core.flower import REPLY_UNAVAILABLE, with_error
from fedeff.grids.cohort import Folded
from fedeff.grids.passing import PassingGrid

__all__ = ["LimitedGrid", "content_bytes"]

_log = logging.getLogger(__name__)


class LimitedGrid(PassingGrid):
    """Another Grid, whose replies of more than `limit_bytes` become errors before anything reads them.

    Put it outside of a `MeteredGrid`, which then counts what really came, and inside of whatever decodes:
    a codec and a strategy see the error of a client, and `take_refused` names it. It bounds what decoding,
    summing and keeping replies can cost; not what Flower's SuperLink and its Grid hold of a reply until it
    comes here.
    """

    def __init__(self, grid: Grid, limit_bytes: int) -> None:
        super().__init__(grid)
        if limit_bytes < 1:
            raise ConfigError(f"limit_bytes is {limit_bytes}; expected 1 or more")
        self._limit_bytes = limit_bytes
        self._refused: list[tuple[int, str]] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid; a list stays a list, an iterator an iterator."""
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        if isinstance(replies, Collection):
            return [self._bounded(reply) for reply in replies]
        return self._each_bounded(iter(replies))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the wrapped grid."""
        return [self._bounded(reply) for reply in self.grid.pull_messages(message_ids)]

    def take_refused(self) -> list[tuple[int, str]]:
        """Nodes whose replies were too large, and how large, since this was last asked."""
        refused, self._refused = [*super().take_refused(), *self._refused], []
        return refused

    def _each_bounded(self, replies: Iterator[Any]) -> Iterator[Any]:
        try:
            for reply in replies:
                yield self._bounded(reply)
        finally:
            if callable(close := getattr(replies, "close", None)):
                close()

    def _bounded(self, reply: Message) -> Message:
        if isinstance(reply, Folded) or reply.has_error():
            return reply
        size = content_bytes(reply.content)
        if size <= self._limit_bytes:
            return reply
        node = reply.metadata.src_node_id
        reason = f"the reply of node {node} has {size} bytes, the limit is {self._limit_bytes}"
        self._refused.append((node, reason))
        _log.warning("%s; it is left out (see largest-reply-bytes)", reason)
        return with_error(reply, REPLY_UNAVAILABLE, reason)


def content_bytes(content: RecordDict) -> int:
    """About how much memory a content takes: its arrays' bytes, and all names and values beside them."""
    return sum(len(key) + _record_bytes(record) for key, record in content.items())


def _record_bytes(record: Any) -> int:
    if isinstance(record, ArrayRecord):
        return sum(len(key) + len(array.data) + 8 * len(array.shape) for key, array in record.items())
    return sum(len(key) + _value_bytes(value) for key, value in record.items())


def _value_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(_value_bytes(one) for one in value)
    return len(value) if isinstance(value, str | bytes) else 8
