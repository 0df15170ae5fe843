"""A Grid whose rounds overlap: what is sent in one round may be answered in a later one."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedeff.core.flower import NODE_UNAVAILABLE, error_reply, set_message_id
from fedeff.grids.cohort import Cohort
from fedeff.grids.passing import PassingGrid

__all__ = ["Enough", "OverlapGrid", "kind_of"]

Enough = Callable[[Sequence[Message], int], bool]

_POLL_S = 0.2
_UNSENT = "the message could not be sent: it is too large for the SuperLink, or its node is gone"


class OverlapGrid(PassingGrid):
    """Another Grid, with a `send_and_receive` of train messages that need not wait for them.

    It pushes the messages and pulls replies to all that were ever sent and not answered, until
    `enough(replies, outstanding)` says that the replies of this call, in the order in which they came,
    will do, or until nothing is outstanding. What is still under way then is answered in a later call.
    `enough` is asked before each pull and must say yes while no round is open: an empty sending may be
    a round that sends nothing new, or Flower's way to skip an evaluation. Messages of other kinds, such
    as evaluations, go through the wrapped Grid, and only their own replies come back.

    A message that the wrapped Grid could not send, since it is too large or its node is gone, is answered
    at once with an error. A reply that never comes is outstanding for good: the strategy's `enough` must
    not insist on it, or the caller must give a `timeout`, in real seconds. Grids that answer a pull at once
    are asked every `poll_s` real seconds.

    Over an engine of fedeff with a clock the `timeout` is in virtual seconds, and nobody waits in real
    ones: where no further reply comes in time, the wait ends and sets the clock to where it would have
    ended; without a `timeout` it would last for ever, so the clock stays where it is.

    Attributes that Flower's Grid does not have are those of the wrapped grid.
    """

    def __init__(self, grid: Grid, enough: Enough, *, poll_s: float = _POLL_S) -> None:
        super().__init__(grid)
        self._enough = enough
        self._poll_s = poll_s
        self._outstanding: dict[str, None] = {}  # message ids, oldest first
        self._failures = 0  # messages that could not be sent and had no id

    @property
    def outstanding(self) -> int:
        """Messages sent through `send_and_receive` and not answered."""
        return len(self._outstanding)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train messages: push these, and pull replies until there are enough. Others: as they are."""
        held = messages if isinstance(messages, Cohort) else list(messages)
        if any(kind_of(message) != "train" for message in held):
            return self.grid.send_and_receive(held, timeout=timeout)
        until_s = math.inf if timeout is None else self._now_s() + timeout
        return self._pull(self._push(list(held)), until_s)

    def _push(self, messages: list[Message]) -> list[Message]:
        """Send the messages; errors for those that could not be sent."""
        if not messages:
            return []
        # Flower's grids leave these out, or give None for them; most have given them an id before.
        sent = dict.fromkeys(key for key in self.grid.push_messages(messages) if key)
        self._outstanding.update(sent)
        return [self._unsent(message) for message in messages if message.metadata.message_id not in sent]

    def _unsent(self, message: Message) -> Message:
        """The answer to a message that could not be sent."""
        if not message.metadata.message_id:
            self._failures += 1
            set_message_id(message, f"unsent-{self._failures}")
        return error_reply(message, NODE_UNAVAILABLE, _UNSENT)

    def _pull(self, replies: list[Message], until_s: float) -> list[Message]:
        """These and further replies until there are enough, or the time is up, or none will come."""
        while self._outstanding and not self._enough(replies, len(self._outstanding)):
            if not self._may_come(until_s):
                self._wait_in_vain(until_s)
                break
            pulled = list(self.grid.pull_messages(list(self._outstanding)))
            for reply in pulled:
                self._outstanding.pop(reply.metadata.reply_to_message_id, None)
            replies += pulled
            if not pulled and not getattr(self.grid, "pull_waits", False):
                time.sleep(self._poll_s)
        return replies

    def _may_come(self, until_s: float) -> bool:
        """Whether a reply may come in time."""
        engine = self._engine()
        if engine is None:
            return time.monotonic() < until_s
        next_s = engine.next_arrival_s(self._outstanding)
        return next_s is not None and next_s <= until_s

    def _wait_in_vain(self, until_s: float) -> None:
        """Set a virtual clock to the end of a wait in which no further reply comes."""
        engine = self._engine()
        if engine is not None and until_s < math.inf:
            engine.clock.advance_to(max(engine.clock.now_s, until_s))
            engine.pull_messages([])  # a meter below records the wait in the round that waited

    def _now_s(self) -> float:
        engine = self._engine()
        return time.monotonic() if engine is None else float(engine.clock.now_s)

    def _engine(self) -> Any:
        """The wrapped grid where it tells virtual time and when the next reply comes, else None."""
        foresees = hasattr(self.grid, "next_arrival_s") and getattr(self.grid, "clock", None) is not None
        return self.grid if foresees else None


def kind_of(message: Message) -> str:
    """`train`, `evaluate` or `query`, without the action that Flower allows after a dot."""
    return message.metadata.message_type.partition(".")[0]
