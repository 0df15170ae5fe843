"""A Grid that counts what travels, for any strategy in any runtime."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Message, Metadata, MetricRecord
from flwr.serverapp import Grid

from fedeff.core.layers import payload_bytes
from fedeff.core.records import Exchange
from fedeff.grids.cohort import Folded
from fedeff.grids.passing import PassingGrid

__all__ = ["Clock", "MeteredGrid", "scalar_metrics"]

_WEIGHT = "num-examples"
_PARTITION = "partition-id"
_ROUND_KEYS = ("server-round", "server_round")
_KINDS = ("train", "evaluate", "query")
_HIGH_IS_BAD = ("loss", "error", "perplexity")
_LOW_IS_BAD = ("acc", "f1", "auc", "precision", "recall", "score")


class Clock(Protocol):
    """Anything that tells virtual time, such as `fedeff.core.delays.VirtualClock`."""

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        ...


class MeteredGrid(PassingGrid):
    """Another Grid, with one `Exchange` recorded for each time messages were sent and replies read.

    Works under any strategy: replies pass through untouched, a list as that list and an iterator
    one by one. The record of an iterator is made when it is exhausted, closed or forgotten, so a
    strategy that stops early is recorded with the rest of its cohort as missing. `push_messages` and
    `pull_messages` give one record per kind of message for each pull that brought replies, or before
    which virtual time had passed; what was pushed and never answered is recorded as missing by `close`,
    which whoever owns the run calls at its end. A message that could not be pushed is an error without
    bytes. Nothing is recorded where nothing was sent.

    A record's virtual seconds are those since the one before it: together they are what the clock shows.

    Bytes are payload, `sum(len(array.data))`, per message; a reply that carries an error has none.
    Attributes that Flower's Grid does not have are those of the wrapped grid.

    >>> metered = MeteredGrid(grid)  # doctest: +SKIP
    >>> strategy.start(metered, arrays, num_rounds=3)  # doctest: +SKIP
    >>> sum(exchange.uplink_bytes for exchange in metered.exchanges)  # doctest: +SKIP
    """

    def __init__(
        self,
        grid: Grid,
        on_exchange: Callable[[Exchange], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Wrap `grid`; each record goes to `on_exchange`, or into `exchanges` where that is None."""
        super().__init__(grid)
        self.exchanges: list[Exchange] = []
        self._emit = self.exchanges.append if on_exchange is None else on_exchange
        self._clock = clock
        self._recorded_s = math.nan  # up to when virtual time is recorded; NaN: nothing was sent yet
        self._round = 0
        self._pushed: dict[str, _Tally] = {}
        self._kinds: dict[str, str] = {}  # of messages pushed and not answered, by id

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid; counts as replies are read."""
        tally = self._begun(_Tally())

        def sent(message: Message) -> None:
            if tally.sent == 0:
                tally.kind, tally.server_round = _kind(message), self._round_of(message, first=True)
            tally.add_sent(_payload(message))

        replies = self.grid.send_and_receive(_observed(messages, sent), timeout=timeout)
        return _metered(replies, tally.add_reply, lambda: self._record(tally, missing=tally.outstanding))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the wrapped grid; what was sent is recorded at once."""
        seen: list[tuple[Metadata, str, int]] = []  # kind and bytes; the grid is about to give an id
        kinds: dict[str, None] = {}

        def see(message: Message) -> None:
            kind = _kind(message)
            self._tally(kind).server_round = self._round_of(message, first=kind not in kinds)
            seen.append((message.metadata, kind, _payload(message)))
            kinds[kind] = None

        message_ids = list(self.grid.push_messages(_observed(messages, see)))
        sent = set(message_ids)  # Flower's grids leave out what they could not send, or give None for it
        for metadata, kind, size in seen:
            self._note(metadata.message_id, kind, size if metadata.message_id in sent else None)
        for kind in kinds:
            self._record_and_go_on(kind)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the wrapped grid; replies are recorded once they have been read."""

        def arrived(reply: Message) -> None:
            # The error that a SuperLink answers for a client is of a kind of its own.
            kind = self._kinds.pop(reply.metadata.reply_to_message_id, None) or _kind(reply)
            self._tally(kind).add_reply(reply)

        return _metered(self.grid.pull_messages(message_ids), arrived, self._record_pulled)

    def close(self) -> None:
        """Record messages that were pushed and never answered as missing. The grid stays usable."""
        pushed, self._pushed = self._pushed, {}
        for tally in pushed.values():
            self._record(tally, missing=tally.outstanding)

    def _tally(self, kind: str) -> "_Tally":
        """The open count of what is pushed of a kind."""
        if kind not in self._pushed:
            self._pushed[kind] = self._begun(_Tally(kind, self._round, pushed=True))
        return self._pushed[kind]

    def _begun(self, tally: "_Tally") -> "_Tally":
        """The tally; with the first one begins the time that is recorded."""
        if self._clock and math.isnan(self._recorded_s):
            self._recorded_s = self._clock.now_s
        return tally

    def _note(self, message_id: str, kind: str, size: int | None) -> None:
        """Count a message that was pushed; `size` None: that could not be."""
        if size is None:
            self._tally(kind).add_unsent()
        else:
            self._tally(kind).add_sent(size)
            self._kinds[message_id] = kind

    def _record_pulled(self) -> None:
        replied = [kind for kind, tally in self._pushed.items() if tally.replied]
        waited = [kind for kind, tally in self._pushed.items() if tally.outstanding and self._passed_s]
        for kind in replied or waited[:1]:  # a wait in vain belongs to the round that waited
            self._record_and_go_on(kind)

    def _record_and_go_on(self, kind: str) -> None:
        tally = self._pushed[kind]
        self._pushed[kind] = tally.successor()
        self._record(tally, missing=0)

    def _record(self, tally: "_Tally", missing: int) -> None:
        passed_s = self._passed_s
        if tally.sent or tally.replied or missing or (tally.pushed and passed_s):
            self._recorded_s = self._clock.now_s if self._clock else math.nan
            self._emit(tally.exchange(missing, passed_s))

    @property
    def _passed_s(self) -> float | None:
        """Virtual seconds since the last record; None without a clock."""
        return max(0.0, self._clock.now_s - self._recorded_s) if self._clock else None

    def _round_of(self, message: Message, first: bool) -> int:
        """The round a message names in its configuration or group; where none is named, sends to train.

        `first` says whether the message is the first of its kind in this sending.
        """
        named = _named_round(message)
        if named is None:
            self._round = max(1, self._round + (first and _kind(message) == "train"))
        else:
            self._round = named
        return self._round


def _kind(message: Message) -> str:
    """`train`, `evaluate` or `query`, without the action that Flower allows after a dot."""
    kind = message.metadata.message_type.partition(".")[0]
    return kind if kind in _KINDS else "query"


def _payload(message: Message) -> int:
    return payload_bytes(message.content) if message.has_content() else 0


def _named_round(message: Message) -> int | None:
    records = message.content.config_records.values() if message.has_content() else ()
    for record in records:
        for key in _ROUND_KEYS:
            if isinstance(value := record.get(key), int):
                return max(0, value)
    group = message.metadata.group_id
    return int(group) if group.isascii() and group.isdigit() else None


def _observed(messages: Iterable[Message], see: Callable[[Message], None]) -> Iterable[Message]:
    """The same messages, each seen once before it is sent; anything but an iterator stays what it is."""
    if isinstance(messages, Iterator):
        return _seen_on_the_way(messages, see)
    for message in messages:
        see(message)
    return messages


def _seen_on_the_way(messages: Iterator[Message], see: Callable[[Message], None]) -> Iterator[Message]:
    for message in messages:
        see(message)
        yield message


def _metered(
    replies: Iterable[Message], see: Callable[[Message], None], done: Callable[[], None]
) -> Iterable[Message]:
    if not isinstance(replies, Collection):
        return _Replies(iter(replies), see, done)
    for reply in replies:
        see(reply)
    done()
    return replies


class _Replies(Iterator[Message]):
    """An iterator that counts what it hands on and tells once when it ends, however it ends."""

    def __init__(
        self, replies: Iterator[Message], see: Callable[[Message], None], done: Callable[[], None]
    ) -> None:
        self._replies = replies
        self._see = see
        self._done: Callable[[], None] | None = done

    def __next__(self) -> Message:
        try:
            reply = next(self._replies)
        except BaseException:
            self.close()
            raise
        self._see(reply)
        return reply

    def close(self) -> None:
        """Give up the replies still to come; the exchange is recorded with them as missing."""
        done, self._done = self._done, None
        if done is None:
            return
        if callable(close := getattr(self._replies, "close", None)):
            close()
        done()

    def __del__(self) -> None:
        self.close()


@dataclass
class _Tally:
    """The running count of one exchange."""

    kind: str = "query"
    server_round: int = 0
    sent: int = 0
    errors: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    outstanding: int = 0
    pushed: bool = False
    participants: list[int] = field(default_factory=list)
    values: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # (weight, value)
    started_s: float = field(default_factory=time.perf_counter)

    @property
    def replied(self) -> int:
        return len(self.participants) + self.errors

    def add_sent(self, size: int) -> None:
        self.sent += 1
        self.outstanding += 1
        self.downlink_bytes += size

    def add_unsent(self) -> None:
        self.sent += 1
        self.errors += 1

    def add_reply(self, reply: Message | Folded) -> None:
        if isinstance(reply, Folded):
            for receipt in reply.receipts:
                self._add_arrival(receipt.node_id, receipt.up_bytes, receipt.metrics)
        elif reply.has_content():
            self._add_arrival(reply.metadata.src_node_id, payload_bytes(reply.content), scalar_metrics(reply))
        else:
            self.errors += 1
            self.outstanding -= 1

    def _add_arrival(self, node_id: int, up_bytes: int, metrics: dict[str, float]) -> None:
        self.outstanding -= 1
        self.uplink_bytes += up_bytes
        partition = metrics.get(_PARTITION, math.nan)
        self.participants.append(int(partition) if math.isfinite(partition) else node_id)
        weight = metrics.get(_WEIGHT, 1.0)
        for name, value in metrics.items():
            if name not in (_WEIGHT, _PARTITION) and math.isfinite(value):
                self.values.setdefault(name, []).append((weight, value))

    def exchange(self, missing: int, virtual_s: float | None) -> Exchange:
        return Exchange(
            kind=self.kind,
            server_round=self.server_round,
            sent=self.sent,
            arrived=len(self.participants),
            errors=self.errors,
            missing=max(0, missing),
            uplink_bytes=self.uplink_bytes,
            downlink_bytes=self.downlink_bytes,
            wall_s=time.perf_counter() - self.started_s,
            virtual_s=virtual_s,
            participants=tuple(self.participants),
            metrics=_weighted_means(self.values),
            worst_tenth=_worst_tenth(self.values) if self.kind == "evaluate" else {},
            pushed=self.pushed,
        )

    def successor(self) -> "_Tally":
        """An empty tally that starts now, with the messages still unanswered."""
        return _Tally(self.kind, self.server_round, outstanding=self.outstanding, pushed=self.pushed)


def scalar_metrics(reply: Message) -> dict[str, float]:
    """Every numeric scalar in the reply's MetricRecords; lists are left out."""
    return {
        name: value
        for record in reply.content.values()
        if isinstance(record, MetricRecord)
        for name, value in record.items()
        if isinstance(value, int | float)
    }


def _weighted_means(values: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Means over clients weighted by num-examples (1 where a reply has none); exact in any order.

    Values that are not finite are left out, and so is a metric to which nobody gives any weight.
    """
    means = {}
    for name, pairs in values.items():
        heavy = [(weight, value) for weight, value in pairs if 0 < weight < math.inf]
        total = math.fsum(weight for weight, _ in heavy)
        if total > 0:
            means[name] = math.fsum(weight * value for weight, value in heavy) / total
    return means


def _worst_tenth(values: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """For losses and scores, known by name: the plain mean over the worst ceil(n / 10) clients.

    Those without examples have nothing to say.
    """
    worst = {}
    for name, pairs in values.items():
        high_is_bad = any(word in name.lower() for word in _HIGH_IS_BAD)
        if high_is_bad or any(word in name.lower() for word in _LOW_IS_BAD):
            ranked = sorted((value for weight, value in pairs if weight > 0), reverse=high_is_bad)
            tenth = ranked[: math.ceil(len(ranked) / 10)]
            if tenth:
                worst[name] = math.fsum(tenth) / len(tenth)
    return worst
