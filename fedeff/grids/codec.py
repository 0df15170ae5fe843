"""A Grid whose clients send coded arrays, decoded before any strategy sees them."""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import CodecError, ConfigError, ReplyError, ResumeError
from fedeff.core.flower import REPLY_UNAVAILABLE, with_content, with_error
from fedeff.core.state import StateStore
from fedeff.grids.coded_nodes import CodedNodes
from fedeff.grids.cohort import Cohort, Folded
from fedeff.grids.instructions import Answer
from fedeff.grids.passing import PassingGrid
from fedeff.grids.receiving import knows_base, read_reply
from fedeff.grids.replicas import NDArray
from fedeff.grids.sending import CodesRecords, Coding, Sending

__all__ = ["CodecGrid"]

Outgoing = tuple[Message, int]  # as it travels, and the exchange whose answer is awaited

_log = logging.getLogger(__name__)

_NUMBER_BITS = 32
_SESSIONS = 2**30  # with the number's bits within Flower's signed 64
_CODED_KINDS = ("train", "evaluate")
_MOST_UNDER_WAY = 32  # messages to one client that a reply is still decoded for


class CodecGrid(PassingGrid):
    """Another Grid, between whose server and clients arrays travel coded; any strategy, in any runtime.

    `up` codes the replies to train messages, `down` the models of train and evaluate messages; clients
    must run `fedeff.clients.codec_mod`, or be those of fedeff. Put it outside of a `MeteredGrid`, which
    then counts coded bytes. What a client is to do travels in the message, so nothing has to be
    agreed upon before.

    With `difference` (FedPAQ, arXiv:1909.13014) what goes up is the difference to what the client was
    last sent of that array: in this message, or, where the configuration names a `cycle`, in an
    earlier one of the cycle, which both sides then keep. Replies that are displacements or gradients
    already, and arrays that the client was not sent, go as they are. With `down_difference` what goes down
    is a difference, too, to what the client holds after all that it was sent; both sides keep it, the
    server one copy for all clients that hold the same. A first model then goes down uncoded. With
    `share_scales` clients scale their arrays by the largest scale of the round before, where the codec
    has scales to share.

    What codecs remember of what they sent (error feedback, warm starts) is kept on either side, here in
    `memories`. A reply that cannot be decoded, or was made from something else than the server knows,
    becomes an error of that client, and both begin anew; so they do after an error or a reply that
    never came. `state` and `restore` are for checkpoints. `session` tells apart Grids that ask the
    same clients one after the other.

    Replies cannot be summed on the workers by a `Cohort.fold`, since they are decoded here.

    >>> grid = CodecGrid(grid, up=RecordCodec.of("tern_grad"))  # doctest: +SKIP
    >>> FedAvg().start(grid, initial_arrays, num_rounds=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        grid: Grid,
        up: CodesRecords | None = None,
        down: CodesRecords | None = None,
        *,
        difference: bool = True,
        down_difference: bool = False,
        share_scales: bool = False,
        seed: int = 0,
        session: int | None = None,
        memories: StateStore | None = None,
        limit_bytes: int = 2**30,
    ) -> None:
        super().__init__(grid)
        if down_difference and down is None:
            raise ConfigError("down_difference needs a codec for the way down; give one, or leave it out")
        if session is not None and not 0 <= session < _SESSIONS:
            raise ConfigError(f"session is {session}; expected a number from 0 to below {_SESSIONS}")
        self._coding = Coding(up, down, difference, down_difference, share_scales, seed, limit_bytes)
        self._session = 1 + secrets.randbelow(_SESSIONS - 1) if session is None else session
        self._exchanges = 0
        self._nodes = CodedNodes(StateStore() if memories is None else memories)
        self._layouts: dict[str, dict[str, tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        self._scales: dict[str, float] = {}  # that clients are told
        self._gathered: dict[str, float] = {}  # of replies since they were last told
        self._pushed: dict[str, tuple[int, int]] = {}  # node and exchange by message id
        self._refused: list[tuple[int, str]] = []
        self._warned = False

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid; replies are decoded as they are read."""
        held = messages if isinstance(messages, Cohort) else list(messages)
        self._refuse_fold(held)
        outgoing = self._instructed(list(held))
        coded: Any = [message for message, _ in outgoing]
        coded = replace(held, messages=coded) if isinstance(held, Cohort) else coded
        replies = self.grid.send_and_receive(coded, timeout=timeout)
        if not isinstance(replies, Collection):
            return self._each_decoded(iter(replies), outgoing)
        decoded = [self._decoded(reply) for reply in replies]
        self._settle(outgoing)
        return decoded

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the wrapped grid."""
        outgoing = self._instructed(list(messages))
        message_ids = list(self.grid.push_messages([message for message, _ in outgoing]))
        sent = set(message_ids)  # Flower's grids leave out what they could not send, or give None for it
        for message, exchange in outgoing:
            if message.metadata.message_id in sent:
                self._pushed[message.metadata.message_id] = message.metadata.dst_node_id, exchange
            else:
                self._nodes.give_up(message.metadata.dst_node_id, exchange)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the wrapped grid; replies are decoded."""
        return [self._pulled(reply) for reply in self.grid.pull_messages(message_ids)]

    def take_refused(self) -> list[tuple[int, str]]:
        """Nodes whose replies did not come this far or could not be decoded, and why, since last asked."""
        refused, self._refused = [*super().take_refused(), *self._refused], []
        return refused

    def model_replaced(self) -> None:
        """Begin anew with every client: what both sides keep is of arrays that are no longer sent."""
        self._nodes.forget_all()
        self._layouts, self._scales, self._gathered = {}, {}, {}

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold to go on, beside the store of `memories`."""
        table, replicas = self._nodes.state()
        about = {
            "layouts": {
                record: {name: [list(shape), dtype.str] for name, (shape, dtype) in layout.items()}
                for record, layout in self._layouts.items()
            },
            "scaled": list(self._scales),
            "gathered": list(self._gathered),
        }
        return {
            "exchanges": np.array([self._session, self._exchanges], np.int64),
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "scales": np.array([*self._scales.values(), *self._gathered.values()], np.float64),
            **table,
            **{f"replica/{key}": values for key, values in replicas.items()},
        }

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state` returned, once the store of `memories` is what it was then.

        Raises:
            ResumeError: if it is no state of a `CodecGrid`.
        """
        try:
            self._session, self._exchanges = (int(number) for number in state["exchanges"])
            about = json.loads(state["about"].tobytes())
            scales = iter(state["scales"].tolist())
            self._layouts = {
                record: {name: (tuple(shape), np.dtype(code)) for name, (shape, code) in layout.items()}
                for record, layout in about["layouts"].items()
            }
            self._scales = {name: next(scales) for name in about["scaled"]}
            self._gathered = {name: next(scales) for name in about["gathered"]}
        except (KeyError, ValueError, TypeError) as error:
            raise ResumeError(
                f"a checkpoint's codec state cannot be read: {error}; start a new run"
            ) from error
        replicas = {k.removeprefix("replica/"): v for k, v in state.items() if k.startswith("replica/")}
        self._nodes.restore(state, replicas)

    def _instructed(self, messages: list[Message]) -> list[Outgoing]:
        """The messages as they travel, each with its exchange; 0 where no answer about coding is awaited."""
        if any(_kind(message) == "train" for message in messages):
            self._scales, self._gathered = {**self._scales, **self._gathered}, {}
        sendings: list[Sending] = []
        times: Counter[int] = Counter()  # a client that is asked twice is asked in two exchanges
        outgoing = []
        for message in messages:
            if not self._codes(message):
                outgoing.append((message, 0))
                continue
            node = message.metadata.dst_node_id
            if times[node] == len(sendings):
                self._exchanges += 1
                exchange = self._session << _NUMBER_BITS | self._exchanges
                sendings.append(Sending(self._coding, exchange, self._layouts, self._scales))
            outgoing.append(self._sent(sendings[times[node]], message))
            times[node] += 1
        return outgoing

    def _codes(self, message: Message) -> bool:
        """Whether there is anything to be coded about a message or its reply."""
        kind = _kind(message)
        wanted = self._coding.down is not None or (kind == "train" and self._coding.up is not None)
        return wanted and kind in _CODED_KINDS and message.has_content()

    def _sent(self, sending: Sending, message: Message) -> Outgoing:
        node = message.metadata.dst_node_id
        coded = sending.instructed(message, self._nodes.of(node))
        if node not in sending.sent:
            return coded, 0
        self._nodes.send(node, sending.sent[node], _MOST_UNDER_WAY)
        return coded, sending.exchange

    def _refuse_fold(self, messages: Iterable[Message]) -> None:
        up = self._coding.up
        if up is None or not isinstance(messages, Cohort) or messages.fold is None:
            return
        if any(_kind(message) == "train" for message in messages):
            raise ConfigError(
                f"replies coded by {up.spec!r} are decoded on the server, so they cannot be summed on the "
                "workers; set fold = server, or leave the codec out"
            )

    def _each_decoded(self, replies: Iterator[Any], outgoing: list[Outgoing]) -> Iterator[Any]:
        try:
            for reply in replies:
                yield self._decoded(reply)
        finally:
            if callable(close := getattr(replies, "close", None)):
                close()
            self._settle(outgoing)

    def _settle(self, outgoing: list[Outgoing]) -> None:
        """Nobody waits any longer for answers to these."""
        for message, exchange in outgoing:
            self._nodes.give_up(message.metadata.dst_node_id, exchange)

    def _pulled(self, reply: Message) -> Message:
        # The error that a SuperLink answers for a client does not name its node.
        pushed = self._pushed.pop(reply.metadata.reply_to_message_id, None)
        decoded = self._decoded(reply)
        if pushed is not None:
            self._nodes.give_up(*pushed)
        return decoded

    def _decoded(self, reply: Message) -> Message:
        """The reply as the strategy sees it; an error where it cannot be read."""
        if isinstance(reply, Folded) or reply.has_error():  # folded: its messages asked for no coding
            return reply
        node = reply.metadata.src_node_id
        try:
            return self._read(reply, node)
        except (CodecError, ReplyError) as error:
            self._nodes.forget(node)
            reason = f"the reply of node {node} cannot be decoded: {error}"
            self._refused.append((node, reason))
            _log.warning("%s", reason)
            return with_error(reply, REPLY_UNAVAILABLE, reason)

    def _read(self, reply: Message, node: int) -> Message:
        answer = Answer.of(reply.content)
        if answer is None:
            self._warn_of_no_answer(reply)
            return reply
        sent = self._nodes.take(node, answer.exchange)
        if sent is None:
            raise ReplyError("it answers a message that is not awaited, or was answered before")
        memories = self._nodes.memories(node, 0 if answer.fresh else answer.after)
        received = read_reply(reply, answer, sent, self._coding, memories)
        for name, scale in received.scales.items():
            self._gathered[name] = max(scale, self._gathered.get(name, 0.0))
        if answer.remembers or sent.instruction.keep:
            replica = sent.replica if knows_base(answer, sent) else None
            self._nodes.stand(node, sent, received.memories, replica=replica)
        else:
            self._nodes.forget(node)
        return with_content(reply, RecordDict(received.records))

    def _warn_of_no_answer(self, reply: Message) -> None:
        """Say once that a client pays no heed to its instructions."""
        has_arrays = any(isinstance(record, ArrayRecord) for record in reply.content.values())
        if has_arrays and self._coding.up is not None and not self._warned:
            self._warned = True
            _log.warning(
                "node %d answers without coding its arrays; give its ClientApp mods=[codec_mod] "
                "from fedeff.clients",
                reply.metadata.src_node_id,
            )


def _kind(message: Message) -> str:
    """`train`, `evaluate` or `query`, without the action that Flower allows after a dot."""
    return message.metadata.message_type.partition(".")[0]
