"""A Grid over Flower's that asks for replies promptly: a round ends when it is answered, not later."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError
from fedeff.core.flower import NODE_UNAVAILABLE, REPLY_UNAVAILABLE, error_reply
from fedeff.core.flower_deployment import is_deployed, pull_replies
from fedeff.grids.passing import PassingGrid

__all__ = ["Pace", "PromptGrid", "prompted"]

_UNSENT = "the message could not be sent: it is too large for the SuperLink, or its node is gone"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How long to wait before asking again: `share` of what the round took so far, within bounds.

    A reply is noticed at most `share` of its round too late (or `shortest_s`, where that is more), and
    nobody asks more than `1 / shortest_s` times a second, whatever the round.
    """

    shortest_s: float = 0.05
    longest_s: float = 3.0  # how often Flower's own grid asks
    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.shortest_s <= self.longest_s < math.inf:
            raise ConfigError(
                f"a pace from {self.shortest_s} to {self.longest_s} s, expected 0 < shortest_s <= longest_s"
            )
        if not 0 <= self.share < math.inf:
            raise ConfigError(f"share is {self.share}, expected 0 or more of a round's time")

    def wait_s(self, passed_s: float, asking_s: float = 0.0) -> float:
        """Seconds to the next request, `passed_s` into a round; never less than the last request took."""
        wanted_s = max(self.shortest_s, self.share * passed_s, asking_s)
        return min(wanted_s, self.longest_s)


class PromptGrid(PassingGrid):
    """Another Grid whose `push_messages` and `pull_messages` are used to send and to wait promptly.

    Flower's own asks for replies every 3 seconds, so that each sending lasts up to 3 seconds longer than its
    clients, and sleeps for seconds more where it finds one whose arrays are still on their way; this one asks
    at a `Pace`, and for such arrays again at once. Flower 1.41 offers nothing to wait on. Replies, their
    order (that of arrival), `timeout` in real seconds and the messages' `ttl` are Flower's. What comes by
    the timeout is returned, and no later reply.

    Further than Flower's grid goes: messages that are too many for one push are pushed in halves, down to
    one by one; a message that cannot be pushed is answered with an error instead of ending the run; a
    reply that comes twice, or to a message that was not asked about, is refused, counted in `refused` and
    logged; so is one that names another node than the one that was asked, and an error takes its place.
    A node that goes away under a round does not hold it up for ever: once its heartbeats are missing for a
    minute the SuperLink answers for it with an error. A node that comes back in that time without the
    message, since it was restarted, does: give a `timeout`.

    It brings nothing over a Grid that is not asked for replies, such as those of fedeff's engines.

    >>> grid = PromptGrid(grid)  # doctest: +SKIP
    >>> FedAvg().start(grid, initial_arrays, num_rounds=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        grid: Grid,
        pace: Pace | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(grid)
        self.pace = pace or Pace()
        self.refused = 0  # replies so far that nobody was given
        self._now_s = now_s
        self._sleep = sleep

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push through the wrapped grid; an id for each message, empty where it could not be sent."""
        held = list(messages)
        if not held:
            return []
        ids = [key or "" for key in self.grid.push_messages(held)]
        if len(ids) == len(held):
            return ids
        if len(held) == 1:
            return [""]
        half = len(held) // 2  # Flower's grid gives no ids at all where a push is too large
        return self.push_messages(held[:half]) + self.push_messages(held[half:])

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """What the wrapped grid has in answer to these messages, one reply to each at most."""
        awaited = dict.fromkeys(message_ids)
        replies = []
        for reply in pull_replies(self.grid, list(awaited)):
            key = reply.metadata.reply_to_message_id
            if key in awaited:
                del awaited[key]
                replies.append(reply)
            else:
                self._refuse(reply, "it came before, or nobody asked for it")
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push the messages and pull replies until all have come, or `timeout` real seconds are over."""
        began_s, held = self._now_s(), list(messages)
        ends_s = math.inf if timeout is None else began_s + timeout
        ids = self.push_messages(held)
        replies = [_unsent(message) for message, key in zip(held, ids, strict=True) if not key]
        awaited = {key: message for message, key in zip(held, ids, strict=True) if key}
        while awaited and (timeout is None or timeout > 0):
            asked_s = self._now_s()
            replies += [self._checked(reply, awaited) for reply in self.pull_messages(awaited)]
            now_s = self._now_s()
            if not awaited or now_s >= ends_s:
                break
            self._sleep(min(self.pace.wait_s(now_s - began_s, now_s - asked_s), ends_s - now_s))
        return replies

    def _checked(self, reply: Message, awaited: dict[str, Message]) -> Message:
        """The reply, awaited no more; an error where another node sent it than the one that was asked."""
        asked = awaited.pop(reply.metadata.reply_to_message_id)
        sender, node = reply.metadata.src_node_id, asked.metadata.dst_node_id
        if not reply.has_content() or sender == node:  # errors may be the SuperLink's own
            return reply
        why = f"the reply is from node {sender}, node {node} was asked"
        self._refuse(reply, why)
        return error_reply(asked, REPLY_UNAVAILABLE, why)

    def _refuse(self, reply: Message, why: str) -> None:
        self.refused += 1
        metadata = reply.metadata
        _log.warning(
            "refused a reply of node %d to message %.12s: %s",
            metadata.src_node_id,
            metadata.reply_to_message_id or "without id",
            why,
        )


def prompted(grid: Grid) -> Grid:
    """The grid, wrapped in a `PromptGrid` where it is the one of Flower's deployment; others as they are."""
    return PromptGrid(grid) if is_deployed(grid) else grid


def _unsent(message: Message) -> Message:
    return error_reply(message, NODE_UNAVAILABLE, _UNSENT)
