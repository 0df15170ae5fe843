"""A Grid whose rounds end at a deadline, with the replies that came by then and no others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.grids.cohort import Cohort
from fedeff.grids.overlap import OverlapGrid, kind_of

__all__ = ["DeadlineGrid", "Late"]

Late = Literal["drop", "keep"]
_POLL_S = 0.2


class DeadlineGrid(OverlapGrid):
    """Another Grid, with a `send_and_receive` of train messages that ends after `deadline_s` seconds.

    It returns real replies only: nothing stands in for one that is late. Seconds are virtual over an engine
    of fedeff with a clock, else real. A round ends earlier once every message of it is answered, or once
    replies with content came to the share `quorum` of them (over-selection: ask 1.3 times as many clients
    as are needed and set `quorum=1 / 1.3`). It ends later while fewer than `at_least` such replies are
    there, up to the caller's `timeout`.

    Late replies are pulled in later rounds. `late="drop"` forgets them then, and any strategy can run, also
    Flower's own; `late="keep"` hands them out with the replies of the round in which they came, in the order
    of arrival, for a strategy that knows which message a reply answers. With `withhold` a node that still
    works at an earlier message is sent no other: it is missing in the round, and asked again once it has
    answered. Without it messages pile up at slow nodes; set it off only for a strategy that sees to it.

    A round of which no message is sent lasts until an answer to an earlier one comes. A strategy says that
    it means such a round with an empty `Cohort`: an empty list is Flower's way to skip an evaluation.
    Messages of other kinds pass, and so do a node's errors. A node that never answers is withheld until the
    SuperLink answers for it, when the message's `ttl` is over.

    >>> grid = DeadlineGrid(grid, 60.0)  # doctest: +SKIP
    >>> FedAvg().start(grid, initial_arrays, num_rounds=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        grid: Grid,
        deadline_s: float,
        *,
        at_least: int = 1,
        quorum: float = 1.0,
        late: Late = "drop",
        withhold: bool = True,
        poll_s: float = _POLL_S,
    ) -> None:
        super().__init__(grid, self._is_over, poll_s=poll_s)
        if not 0 < deadline_s < math.inf:
            raise ConfigError(f"deadline_s is {deadline_s}, expected a positive number of seconds")
        if at_least < 0:
            raise ConfigError(f"at_least is {at_least}, expected 0 or more replies")
        if not 0 < quorum <= 1:
            raise ConfigError(f"quorum is {quorum}, expected a share of the messages in (0, 1]")
        if late not in ("drop", "keep"):
            raise unknown_name("value of late", late, ("drop", "keep"))
        self.deadline_s = deadline_s
        self.at_least = at_least
        self.quorum = quorum
        self.late = late
        self.withhold = withhold
        self.withheld: tuple[int, ...] = ()  # nodes that the last round did not send its message to
        self.dropped = 0  # late replies so far that nobody was given
        self._nodes: dict[str, int] = {}  # of what is outstanding, by message id
        self._round: _Round | None = None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train messages: push these, and pull replies until the round is over. Others: as they are."""
        held = messages if isinstance(messages, Cohort) else list(messages)
        if any(kind_of(message) != "train" for message in held):
            return self.grid.send_and_receive(held, timeout=timeout)
        if not isinstance(held, Cohort) and not held:
            return []
        begun_s = self._now_s()
        limit_s = math.inf if timeout is None else begun_s + timeout
        sent = self._idle(list(held))
        unsent = self._push(sent)
        self._round = opened = self._opened(sent)
        try:
            replies = self._pull(unsent, min(begun_s + self.deadline_s, limit_s))
            opened.is_late = True
            return self._handed_out(self._pull(replies, limit_s), sent)
        finally:
            self._round = None

    def _idle(self, messages: list[Message]) -> list[Message]:
        """The messages that may be sent; notes the nodes of the others."""
        self._nodes = {key: node for key, node in self._nodes.items() if key in self._outstanding}
        busy = set(self._nodes.values()) if self.withhold else set()
        self.withheld = tuple(m.metadata.dst_node_id for m in messages if m.metadata.dst_node_id in busy)
        return [message for message in messages if message.metadata.dst_node_id not in busy]

    def _opened(self, sent: list[Message]) -> "_Round":
        self._nodes |= {message.metadata.message_id: message.metadata.dst_node_id for message in sent}
        awaited = {message.metadata.message_id for message in sent}
        least = self.at_least if sent else max(1, self.at_least)
        return _Round(awaited, math.ceil(self.quorum * len(sent) - 1e-9), least, bool(sent))

    def _handed_out(self, replies: list[Message], sent: list[Message]) -> list[Message]:
        if self.late == "keep":
            return replies
        own = {message.metadata.message_id for message in sent}
        fresh = [reply for reply in replies if reply.metadata.reply_to_message_id in own]
        self.dropped += len(replies) - len(fresh)
        return fresh

    def _is_over(self, replies: Sequence[Message], outstanding: int) -> bool:
        """What is asked before each pull."""
        opened = self._round
        if opened is None:
            return True
        opened.look(replies)
        return opened.is_over


@dataclass
class _Round:
    """What a round still waits for."""

    awaited: set[str]  # ids of its messages that are not answered
    quorum: int  # answers with content that end it before the deadline
    at_least: int  # answers with content that it waits for whatever the time
    asks: bool  # whether it has messages of its own: else answers to earlier ones count
    is_late: bool = False  # whether the deadline is over
    usable: int = 0
    read: int = 0

    def look(self, replies: Sequence[Message]) -> None:
        """Count the replies that came since the last look."""
        for reply in replies[self.read :]:
            key = reply.metadata.reply_to_message_id
            self.usable += reply.has_content() and (not self.asks or key in self.awaited)
            self.awaited.discard(key)
        self.read = len(replies)

    @property
    def is_over(self) -> bool:
        if self.asks and not self.awaited:
            return True
        wanted = self.at_least if self.is_late else max(self.at_least, self.quorum)
        return self.usable >= wanted
