"""A Grid under which a strategy gets the sum of the clients' replies, and nobody sees one of them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError, SecureAggregationError, unknown_name
from fedeff.core.field import Elements
from fedeff.core.flower import REPLY_UNAVAILABLE, with_content, with_error
from fedeff.core.layers import payload_bytes
from fedeff.grids.cohort import Cohort, Folded
from fedeff.grids.passing import PassingGrid
from fedeff.secure.envelope import Step
from fedeff.secure.linear_codec import linear_codec
from fedeff.secure.messages import written
from fedeff.secure.plan import Plan, array_rows
from fedeff.secure.protocols import server_side
from fedeff.secure.quantiser import Quantiser, most_fraction_bits
from fedeff.secure.secure_mod import base_of
from fedeff.secure.server_session import ServerSession
from fedeff.secure.terms import PROTOCOLS, terms_for
from fedeff.secure.wire import answer_of, carrying
from fedeff.strategies.spread import SpreadSum
from fedeff.strategies.weighted_sum import Total, WeightedSum, asks_for_full

__all__ = ["SecureGrid", "SecureOptions"]

_log = logging.getLogger(__name__)
_METRICS = ("train-loss", "num-steps")
_PHASES = {Step.KEYS: "keys", Step.SHARES: "shares", Step.INPUT: "inputs", Step.REVEAL: "reveal"}


@dataclass(frozen=True)
class SecureOptions:
    """How a secure sum is made; the terms of a round follow from its cohort (see `terms_for`)."""

    protocol: str = "lightsecagg"
    dropout: float = 0.3  # share of a cohort that may be lost
    privacy: float = 0.2  # share that may collude with the server
    neighbours: int = 0  # of secagg+; 0 for as many as these need
    clip: float = 16.0  # the largest value, of either sign
    fraction_bits: int = 0  # 0 for as many as fit
    most_examples: int = 10_000  # of one client
    metrics: tuple[str, ...] = _METRICS  # that are summed, too; no others reach the server
    codec: str = ""
    difference: bool = True  # codecs but raw code what changed since a client was sent an array
    seed: int = 0  # of the entries that random_k keeps

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol of secure aggregation", self.protocol, PROTOCOLS)
        if not (0 <= self.dropout < 0.5 and 0 < self.privacy < 1):
            raise ConfigError(
                f"secure-dropout {self.dropout} and secure-privacy {self.privacy}, expected a share below a "
                "half and one above 0 and below 1"
            )
        Quantiser(self.clip, self.fraction_bits or -900, 1, self.most_examples)
        linear_codec(self.codec, self.seed)


class SecureGrid(PassingGrid):
    """Another Grid, through which train messages become the four exchanges of a secure sum.

    Clients run `SecureMod`. Of a round the strategy gets one `Folded` total, as from an engine that sums
    replies where they are made, and the errors of clients; so it must be one that takes totals: built with
    `fold="workers"`, summed by `WeightedSum` or `SpreadSum`. Whoever is lost on the way is not in the sum;
    where too few are left there is none, and every client's reply becomes an error. Put it outside of all
    other wrappers; a `CodecGrid` inside may code models on the way down.

    `take_refused` lists refused answers, `measures` say what the last round came to: clients in the sum
    and lost, payload bytes of each phase, the summed metrics' means.

    >>> grid = SecureGrid(grid, SecureOptions("lightsecagg"))  # doctest: +SKIP
    >>> FedAvg(fold="workers").start(grid, initial_arrays, num_rounds=3)  # doctest: +SKIP
    """

    def __init__(self, grid: Grid, options: SecureOptions | None = None) -> None:
        super().__init__(grid)
        self.options = options or SecureOptions()
        self._refused: list[tuple[int, str]] = []
        self.measures: dict[str, float] = {}
        self.on_input: Callable[[Elements], None] | None = None  # told of each masked vector that came

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The total of a cohort's replies; other kinds of messages go as they are."""
        held = messages if isinstance(messages, Cohort) else list(messages)
        kinds = {message.metadata.message_type.partition(".")[0] for message in held}
        if MessageType.TRAIN not in kinds:
            return self.grid.send_and_receive(held, timeout=timeout)
        fold = held.fold if isinstance(held, Cohort) else None
        if type(fold) not in (WeightedSum, SpreadSum):
            told = "replies one by one" if fold is None else type(fold).__name__
            raise ConfigError(
                f"the strategy wants {told}, but under secure aggregation there are weighted sums only; take "
                "fedavg, fedprox, fedlama or partial, with fold = workers"
            )
        assert isinstance(fold, WeightedSum)
        answers: Any = self._round(list(held), fold, timeout)
        return list(answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the wrapped grid, but for train messages, whose replies would be plain.

        Raises:
            ConfigError: for a message to train.
        """
        held = list(messages)
        if any(message.metadata.message_type.startswith(MessageType.TRAIN) for message in held):
            raise ConfigError(
                "a strategy that pushes messages to train has no cohort whose replies could be summed; "
                "under secure aggregation take fedavg, fedprox, fedlama or partial"
            )
        return self.grid.push_messages(held)

    def take_refused(self) -> list[tuple[int, str]]:
        """Nodes whose answers were refused, and why, since this was last asked; of the wrapped grid, too."""
        inner = self.grid.take_refused() if hasattr(self.grid, "take_refused") else []
        refused, self._refused = self._refused, []
        return [*inner, *refused]

    def _round(
        self, messages: list[Message], fold: WeightedSum, timeout: float | None
    ) -> list[Folded | Message]:
        plan = self._plan(messages, fold)
        options = self.options
        terms = terms_for(
            options.protocol,
            len(messages),
            dropout=options.dropout,
            privacy=options.privacy,
            neighbours=options.neighbours,
        )
        session = server_side(terms, plan.size(), plan.server_round)
        session.on_input = self.on_input
        base = base_of(messages[0].content, plan)
        around = _Round(self.grid, session, messages, timeout)
        try:
            around.exchange(Step.KEYS, {n: session.invitation(n) for n in around.numbers}, session.take_keys)
            around.exchange(Step.SHARES, session.rosters(), session.take_shares)
            around.exchange(Step.INPUT, session.input_requests(written(plan)), session.take_input)
            around.exchange(Step.REVEAL, session.reveal_requests(), session.take_revealed)
            total = plan.total(session.total(), base)
        except SecureAggregationError as error:
            _log.warning("round %d: no secure sum: %s", plan.server_round, error)
            self._note(around, Total())
            ended = (with_error(one, REPLY_UNAVAILABLE, str(error)) for one in around.last.values())
            return [*ended, *around.errors]
        total.replies = len(session.present)
        total.nodes = [around.nodes[number] for number in sorted(session.present)]
        total.need_full = around.need_full
        self._note(around, total)
        return [Folded(total, ()), *around.errors]

    def _plan(self, messages: list[Message], fold: WeightedSum) -> Plan:
        options = self.options
        clients = len(messages)
        bits = options.fraction_bits or most_fraction_bits(options.clip, clients, options.most_examples)
        config = _config(messages[0].content)
        plan = Plan(
            array_rows(fold.layout),
            options.clip,
            bits,
            clients,
            options.most_examples,
            int(config.get("server-round", 0)),
            fold.weighted_by,
            options.metrics,
            isinstance(fold, SpreadSum),
            options.codec,
            options.seed,
            options.difference and config.get("reply-with") != "displacement",
        )
        if len({message.metadata.dst_node_id for message in messages}) < clients:
            raise ConfigError("a client is asked twice in one round, but has one place in a secure sum")
        contents = {id(message.content.get("arrays")) for message in messages}
        if len(contents) > 1 and any(
            plan.differs(spec.key) for spec in fold.layout if spec.dtype.kind == "f"
        ):
            raise ConfigError(
                f"codec {options.codec!r} tells differences to what clients were sent, but they are sent "
                "different arrays in this round; take codec=raw or codec-difference=false"
            )
        plan.quantiser  # noqa: B018 - proves that no sum can overflow, before anything is sent
        return plan

    def _note(self, around: "_Round", total: Total) -> None:
        self._refused += [(around.nodes[number], reason) for number, reason in around.refused]
        lost = len(around.nodes) - total.replies
        self.measures = {"secure-in-sum": float(total.replies), "secure-lost": float(lost)}
        self.measures |= {f"secure-{_PHASES[step]}-bytes": float(b) for step, b in around.payload.items()}
        self.measures |= {
            f"secure-{name}": weighted / weight for name, (weighted, weight) in total.metrics.items()
        }


@dataclass
class _Round:
    """The exchanges of one session with the clients that a strategy chose."""

    grid: Grid
    session: ServerSession
    messages: list[Message]
    timeout: float | None
    errors: list[Message] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    need_full: list[int] = field(default_factory=list)
    payload: dict[Step, int] = field(default_factory=dict)  # bytes, models left out
    last: dict[int, Message] = field(default_factory=dict)  # by number the reply that came last

    def __post_init__(self) -> None:
        self.nodes = {n: m.metadata.dst_node_id for n, m in enumerate(self.messages, 1)}
        self.numbers = dict(enumerate(self.messages, 1))

    def exchange(self, step: Step, requests: Mapping[int, bytes], take: Any) -> None:
        """Send each client its request and hand every answer to `take`; those refused count as lost."""
        number_of = {self.nodes[number]: number for number in requests}
        asked = Cohort([self._message(step, number, body) for number, body in requests.items()])
        self.payload[step] = sum(map(len, requests.values()))
        for reply in _each(self.grid.send_and_receive(asked, timeout=self.timeout)):
            number = number_of.get(reply.metadata.src_node_id)
            if reply.has_error():
                self.errors.append(reply)
                self.last.pop(number or 0, None)
                continue
            self.payload[step] += payload_bytes(reply.content)
            if number is None:
                self.errors.append(
                    with_error(reply, REPLY_UNAVAILABLE, "a reply of a client that was not asked")
                )
                continue
            self._take(number, reply, take)

    def _take(self, number: int, reply: Message, take: Any) -> None:
        if asks_for_full(reply):
            self.need_full.append(self.nodes[number])
            self.last.pop(number, None)
            return
        try:
            take(number, answer_of(reply))
            self.last[number] = reply
        except SecureAggregationError as error:
            reason = f"the answer of node {self.nodes[number]} is refused: {error}"
            self.refused.append((number, reason))
            self.errors.append(with_error(reply, REPLY_UNAVAILABLE, reason))
            self.last.pop(number, None)
            _log.warning("%s", reason)

    def _message(self, step: Step, number: int, body: bytes) -> Message:
        asked = self.numbers[number]
        if step == Step.INPUT:
            return with_content(asked, carrying(asked.content, step, body))
        config = ConfigRecord({"server-round": self.session.server_round})
        content = carrying(RecordDict({"config": config}), step, body)
        return Message(
            content=content, dst_node_id=self.nodes[number], message_type=asked.metadata.message_type
        )


def _each(replies: Iterable[Message]) -> Iterator[Message]:
    """One by one, and closed where this ends early: a streaming Grid waits for that."""
    try:
        yield from replies
    finally:
        if callable(close := getattr(replies, "close", None)):
            close()


def _config(content: RecordDict) -> dict[str, Any]:
    record = content.get("config")
    return dict(record.items()) if isinstance(record, ConfigRecord) else {}
