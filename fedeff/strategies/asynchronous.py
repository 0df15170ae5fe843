"""What strategies share whose rounds overlap: replies of earlier rounds, and clients that never answer."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecordValues, Message, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError, EngineError
from fedeff.grids.overlap import OverlapGrid
from fedeff.strategies.fedavg import FedAvg, FedAvgOptions
from fedeff.strategies.under_way import Sent, UnderWay
from fedeff.strategies.weighted_sum import Refusal, Total, WeightedSum, layout_of, refusal_of

__all__ = ["AsynchronousAvg", "OpenRound"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass
class OpenRound:
    """A round between `configure_train` and `aggregate_train`."""

    server_round: int
    model: ArrayRecord
    fold: WeightedSum
    awaited: set[str] | None = None  # ids of messages that it waits for, once they are sent
    usable: int = 0  # replies with content among them, so far
    read: int = 0  # replies that were looked at


class AsynchronousAvg(FedAvg, Generic[T]):
    """FedAvg over replies that come in whatever round, displacements unless `reply_with` says otherwise.

    A subclass notes a value of type `T` with each message, says in `awaits` which messages a round waits
    for and in `has_enough` when to stop, and aggregates. What is under way is in no checkpoint: after
    `restore` it counts as lost, a resumed run is a valid one but not bit for bit the interrupted one
    (`resumes_exactly`). `lost` lists the nodes that were given up in the last round; a reply of theirs that
    comes later is refused.

    A slow client still works at what it was given up for. So that this does not pile up, one that leaves
    twice as many messages unanswered as it has under way at most (`window`) rests: it is not asked again
    until it, or the SuperLink for it once a message expires, answers one. `resting` lists those that would
    have been asked in the last round; where everybody rests, a round waits for one of them.

    There is no `fold`, since replies of several rounds arrive together.
    """

    resumes_exactly = False
    window = 1  # messages of one client that are under way at most
    reply_with = "displacement"  # what clients answer with; or "weights"

    _open: OpenRound | None
    _under_way: UnderWay[T]

    def __init__(self, **options: Unpack[FedAvgOptions]) -> None:
        if (fold := options.get("fold", "server")) != "server":
            raise ConfigError(
                f"fold is {fold!r}, but {type(self).__name__} sums on the server what arrives from several "
                "rounds at once; leave fold out"
            )
        super().__init__(**options)
        self.lost: tuple[int, ...] = ()
        self.resting: tuple[int, ...] = ()
        self.forget()

    def over(self, grid: Grid) -> Grid:
        """A Grid whose rounds end when they have enough; a new run begins with nothing under way."""
        self.forget()
        return OverlapGrid(grid, self._enough)

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned; whatever was under way is lost.

        Raises:
            ResumeError: if the state is another strategy's.
        """
        super().restore(state)
        self.forget()

    def model_replaced(self) -> None:
        """Give up all that is under way: what clients answer to it is refused."""
        self.give_up(lambda note: True)

    def forget(self) -> None:
        """Give up everything that is under way or waits to be aggregated."""
        self._open, self._under_way = None, UnderWay()

    def awaits(self, server_round: int) -> Callable[[T], bool]:
        """Which messages, by their notes, a round waits for: here all that are under way."""
        return lambda note: True

    def has_enough(self, opened: OpenRound) -> bool:
        """Whether the round can be aggregated: here once nothing it waits for is unanswered."""
        return self.has_all(opened)

    def has_all(self, opened: OpenRound) -> bool:
        """Whether nothing is left to wait for; where everybody rests, that is one of them coming back."""
        everybody_rests = not len(self._under_way)
        return not (opened.awaited or (everybody_rests and opened.read == 0))

    def rested(self, nodes: Iterable[int]) -> list[int]:
        """The nodes but for those that rest."""
        unanswered = self._under_way.unanswered()
        held = list(nodes)
        self.resting = tuple(node for node in held if unanswered[node] >= 2 * self.window)
        return [node for node in held if unanswered[node] < 2 * self.window]

    def open_round(
        self, server_round: int, arrays: ArrayRecord, config: Mapping[str, ConfigRecordValues]
    ) -> tuple[OpenRound, dict[str, ConfigRecordValues]]:
        """The round that begins, and the settings that all its messages carry."""
        if self.reply_with == "displacement":
            _refuse_unsigned(arrays)
        self._open = OpenRound(server_round, arrays, WeightedSum(layout_of(arrays), self.weighted_by))
        settings = {**config, **self.train_config, "server-round": server_round}
        return self._open, {**settings, "reply-with": self.reply_with}

    def message(self, content: RecordDict, node: int, note: T, opened: OpenRound) -> Message:
        """A train message of the round, which is under way from now on."""
        made = Message(content, dst_node_id=node, message_type="train", group_id=str(opened.server_round))
        self._under_way.add(made, note)
        return made

    def close_round(self, server_round: int) -> OpenRound:
        """The round whose replies are to be aggregated.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        opened, self._open = self._open, None
        if opened is None or opened.server_round != server_round:
            seen = "not called before" if opened is None else f"last called for round {opened.server_round}"
            raise EngineError(
                f"replies of round {server_round} to aggregate, but configure_train was {seen}; "
                "call it for the round first"
            )
        return opened

    def sort_out(self, replies: Iterable[Message]) -> Iterator[tuple[Sent[T], Message]]:
        """Replies with content, each with what it answers; the others go to `failed` and `refused`."""
        failed, stray = [], []
        for reply in replies:
            sent = self._under_way.take(reply)
            if sent is None:
                stray.append(refusal_of(reply, "answers a message that is no longer awaited"))
            elif reply.has_error():
                reason = " ".join((reply.error.reason or "no reason given").split())
                failed.append(Refusal(sent.node_id, None, reason))
                self.on_gap(sent)
            else:
                yield sent, reply
        self.failed, self.refused = tuple(failed), tuple(stray)

    def give_up(self, wanted: Callable[[T], bool]) -> None:
        """Count the messages under way whose notes are wanted as lost."""
        given_up = self._under_way.give_up(wanted)
        for sent in given_up:
            self.on_gap(sent)
        self.lost = tuple(sent.node_id for sent in given_up)

    def on_gap(self, sent: Sent[T]) -> None:
        """A message failed or was given up: here nothing depends on it."""

    def log_round(self, server_round: int, total: Total) -> None:
        """One line of what came to be, and one of the first that did not."""
        _log.info(
            "round %d: %d displacements averaged, %d refused, %d failed, %d lost, %d under way, %d resting",
            *(server_round, total.replies, len(self.refused), len(self.failed), len(self.lost)),
            *(len(self._under_way), len(self.resting)),
        )
        for kind, left_out in (("refused", self.refused), ("failed", self.failed)):
            if left_out:
                _log.warning(
                    "round %d: %s, first of node %d: %s",
                    *(server_round, kind, left_out[0].node_id, left_out[0].reason),
                )

    def _enough(self, replies: Sequence[Message], outstanding: int) -> bool:
        """What the Grid asks before each pull. Outside of a round nothing is waited for."""
        opened = self._open
        if opened is None:
            return True
        if opened.awaited is None:
            opened.awaited = self._under_way.ids(self.awaits(opened.server_round))
        for reply in replies[opened.read :]:
            if (key := reply.metadata.reply_to_message_id) in opened.awaited:
                opened.awaited.remove(key)
                opened.usable += not reply.has_error()
        opened.read = len(replies)
        return self.has_enough(opened)


def _refuse_unsigned(arrays: ArrayRecord) -> None:
    """Raise ConfigError where an array's dtype cannot hold how far its values moved."""
    for spec in layout_of(arrays):
        if spec.dtype.kind in "bu":
            raise ConfigError(
                f"array {spec.key!r} is {spec.dtype}, whose displacement has no sign; "
                "keep it as a signed integer or float, or take a strategy that averages weights"
            )
