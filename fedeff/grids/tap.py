"""A Grid that shows what travels through it to a listener and changes nothing."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from fedeff.grids.cohort import Cohort, Folded
from fedeff.grids.passing import PassingGrid

__all__ = ["Listener", "TapGrid", "Taps"]


class Listener(Protocol):
    """What is told of messages before they are sent, and of each answer before its sender gets it."""

    def asking(self, messages: tuple[Message, ...]) -> None:
        """These messages are about to be sent; the Grid names them when it does."""
        ...

    def answered(self, sent: Message, reply: Message) -> None:
        """A reply to a message came, maybe an error."""
        ...

    def summed(self, sent: tuple[Message, ...], total: Folded) -> None:
        """Of a cohort's messages there came a sum."""
        ...


class TapGrid(PassingGrid):
    """Another Grid, every message and reply of which a listener is shown; both pass through untouched.

    Put it innermost to see bytes as they travel, or outside of a `CodecGrid` to see what the server made of
    them. A list of replies stays that list, a stream stays one: a reply is shown when its turn comes.
    Replies are told by the message that they answer, so two messages to one client are not mixed up;
    messages that are never answered are shown when they are sent alone.
    """

    def __init__(self, grid: Grid, listener: Listener) -> None:
        super().__init__(grid)
        self._listener = listener
        self._pushed: dict[str, Message] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid."""
        held = messages if isinstance(messages, Cohort) else list(messages)
        asked = tuple(held)
        self._listener.asking(asked)
        replies = self.grid.send_and_receive(held, timeout=timeout)
        if not isinstance(replies, Collection):
            return self._each_shown(iter(replies), asked)
        self._show(replies, asked)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the wrapped grid."""
        held = list(messages)
        self._listener.asking(tuple(held))
        message_ids = list(self.grid.push_messages(held))
        self._pushed.update({message.metadata.message_id: message for message in held})
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the wrapped grid."""
        replies = list(self.grid.pull_messages(message_ids))
        for reply in replies:
            sent = self._pushed.pop(reply.metadata.reply_to_message_id, None)
            if sent is not None:
                self._listener.answered(sent, reply)
        return replies

    def _each_shown(self, replies: Iterator[Any], asked: tuple[Message, ...]) -> Iterator[Any]:
        try:
            for reply in replies:
                self._show([reply], asked)
                yield reply
        finally:
            if callable(close := getattr(replies, "close", None)):
                close()

    def _show(self, replies: Iterable[Any], asked: tuple[Message, ...]) -> None:
        # The wrapped grid named the messages when it sent them.
        by_id = {message.metadata.message_id: message for message in asked}
        for reply in replies:
            if isinstance(reply, Folded):
                self._listener.summed(asked, reply)
            elif (sent := by_id.get(reply.metadata.reply_to_message_id)) is not None:
                self._listener.answered(sent, reply)


def _as_it_is(grid: Grid) -> Grid:
    return grid


@dataclass(frozen=True)
class Taps:
    """What a server puts around its Grid at three places, from the inside out: by default nothing.

    `wire` sees what travels, `decoded` what its codecs make of that, `released` what leaves the secure or
    the private sum, where there is one.
    """

    wire: Callable[[Grid], Grid] = _as_it_is
    decoded: Callable[[Grid], Grid] = _as_it_is
    released: Callable[[Grid], Grid] = _as_it_is
