"""Grids on which some clients are not there, or drop out."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedeff.core.flower import REPLY_UNAVAILABLE, with_error
from fedeff.grids import PassingGrid
from fedeff.secure import Step
from fedeff.secure.wire import request_of

__all__ = ["LosingGrid", "SomeGrid"]


class LosingGrid(PassingGrid):
    """Another Grid, from which the updates of clients with these `nodes` never come back.

    In a secure sum they are lost after these clients have shared their secrets, when losing them costs
    the most: whoever is left has to take their masks out.
    """

    def __init__(self, grid: Grid, nodes: Collection[int]) -> None:
        super().__init__(grid)
        self._nodes = frozenset(nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid; what is lost comes back as an error."""
        held: Any = messages
        lost = {
            message.metadata.dst_node_id
            for message in held
            if message.metadata.dst_node_id in self._nodes and _carries_update(message)
        }
        replies = self.grid.send_and_receive(held, timeout=timeout)
        if isinstance(replies, Collection):
            return list(_without(replies, lost))
        return _without(replies, lost)


class SomeGrid(PassingGrid):
    """Another Grid, of which only these `nodes` seem to be connected."""

    def __init__(self, grid: Grid, nodes: Collection[int]) -> None:
        super().__init__(grid)
        self._nodes = frozenset(nodes)

    def get_node_ids(self) -> Iterable[int]:
        """Those of the wrapped grid's nodes, in its order."""
        return [node for node in self.grid.get_node_ids() if node in self._nodes]


def _without(replies: Iterable[Message], lost: set[int]) -> Iterator[Message]:
    for reply in replies:
        gone = reply.metadata.src_node_id in lost and reply.has_content()
        yield with_error(reply, REPLY_UNAVAILABLE, "the client dropped out") if gone else reply


def _carries_update(message: Message) -> bool:
    """Whether the reply to a message is, or hides, an update."""
    if message.metadata.message_type.partition(".")[0] != "train":
        return False
    request = request_of(message.content)
    return request is None or request[0] == Step.INPUT
