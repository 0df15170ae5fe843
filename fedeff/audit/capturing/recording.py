"""What taps on a run hear, made into exchanges: of single clients where the server sees these, or of sums."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedeff.app.client import training_of
from fedeff.app.local_privacy import noise_std_of
from fedeff.app.settings import Settings
from fedeff.app.versions import sparsity_of
from fedeff.app.workload import client_model
from fedeff.audit.capturing.cohort import mean_exchange, private_exchange, secure_exchange
from fedeff.audit.capturing.dialogue import Asked, Dialogue, blurred
from fedeff.audit.view import Exchange
from fedeff.clients.penalty import Penalty
from fedeff.core.errors import AuditError
from fedeff.core.layers import decode_record, payload_bytes
from fedeff.grids import Folded
from fedeff.models import Structure, apply
from fedeff.secure import SecureGrid, Step
from fedeff.secure.privacy import GaussianSum, PrivateGrid
from fedeff.secure.wire import request_of
from fedeff.strategies.weighted_sum import Total

__all__ = ["Recorder", "Seen"]

_AVERAGING = ("fedavg", "fedprox")  # whose next model is the mean of what came


@dataclass(frozen=True, eq=False)
class Seen:
    """An exchange, whose it is and of which rounds' batches, the model's structure, the payload it took."""

    exchange: Exchange
    partitions: tuple[int, ...]
    rounds: tuple[int, ...]
    structure: Structure
    wire_bytes: int


@dataclass
class _Round:
    """Who was asked what in one round, what single clients told, and the sum that came of it."""

    asked: dict[int, Asked]
    told: dict[int, Exchange]
    wire_bytes: dict[int, int]
    total: Folded | None = None
    sent: tuple[Message, ...] = ()  # what the sum answers, as the server has it


class Recorder:
    """Listens at three places of a run (see `Taps`) and keeps what was seen in the wanted rounds.

    Without `victims` all clients count. `outstanding` says how many messages of these rounds nobody has
    answered yet; `seen` holds exchanges by partition, in order.
    """

    def __init__(
        self, settings: Settings, clients: int, wanted: range, victims: tuple[int, ...] | None, vantage: str
    ) -> None:
        self.wanted = wanted
        self.seen: defaultdict[int, list[Seen]] = defaultdict(list)
        self.outstanding = 0
        self.wire, self.decoded = _Wire(self), _Decoded(self)
        self._settings, self._clients, self._vantage = settings, clients, vantage
        self._secure = settings.secure_aggregation != "none"
        self._victims = None if self.sums_only or victims is None else set(victims)
        self._nodes: list[int] = []
        self._heard: dict[str, tuple[Message, Message]] = {}  # by the message answered
        self._dialogues: dict[int, Dialogue] = {}
        self._rounds: defaultdict[int, _Round] = defaultdict(lambda: _Round({}, {}, defaultdict(int)))
        self._grid: Grid | None = None
        if vantage == "released" and not (self._secure or settings.noise_multiplier):
            self._check_averages()

    @property
    def sums_only(self) -> bool:
        """Whether nobody sees a single client's update."""
        return self._secure or self._vantage == "released"

    def meet(self, grid: Grid) -> list[int]:
        """Note the nodes, which ascend with the partitions that they hold; and return them."""
        self._nodes = sorted(grid.get_node_ids())
        return self._nodes

    def releases(self, grid: Grid) -> "_Released":
        """What listens to that grid, from which sums come."""
        self._grid = grid
        return _Released(self)

    def wants(self, message: Message) -> bool:
        """Whether it is to train in one of the wanted rounds."""
        return _trains(message) and _round_of(message) in self.wanted

    def hear(self, sent: Message, reply: Message) -> None:
        """Keep a pair as it travelled."""
        if _trains(sent):
            self._heard[reply.metadata.reply_to_message_id] = sent, reply
            self.outstanding -= self.wants(sent)

    def take(self, decoded: Message) -> None:
        """Make of a pair that was heard, and of what the server decoded, what it tells."""
        pair = self._heard.pop(decoded.metadata.reply_to_message_id, None)
        if pair is None:
            return
        sent, reply = pair
        partition = self._nodes.index(sent.metadata.dst_node_id)
        if self._victims is not None and partition not in self._victims:
            return
        held = self._rounds[_round_of(sent)]
        held.wire_bytes[partition] += payload_bytes(reply.content) if reply.has_content() else 0
        if self._secure and not _is_input(sent):
            return
        dialogue = self._dialogue(partition)
        asked = dialogue.asked(sent)
        held.asked[partition] = asked
        if self._secure:
            dialogue.unseen(asked)
            return
        heard = dialogue.told(asked, reply, decoded)
        if heard is not None and heard.exchange.server_round in self.wanted:
            heard = replace(heard, exchange=self._clipped(heard.exchange))
            held.told[partition] = heard.exchange
            size, structure = payload_bytes(reply.content), asked.request.structure
            self.seen[partition].append(Seen(heard.exchange, (partition,), heard.rounds, structure, size))

    def hear_sum(self, sent: tuple[Message, ...], total: Folded) -> None:
        """Keep the sum of a round."""
        if sent and self.wants(sent[0]):
            held = self._rounds[_round_of(sent[0])]
            held.total, held.sent = total, sent

    def summed(self) -> list[Seen]:
        """What the sums of the wanted rounds tell; a round of which none came is left out."""
        found = [self._sum(self._rounds[one]) for one in self.wanted if one in self._rounds]
        return [one for one in found if one is not None]

    def _sum(self, held: _Round) -> Seen | None:
        if not self._secure and not self._settings.noise_multiplier:
            return self._mean(held)
        if held.total is None:
            return None
        total = cast(Total, held.total.total)
        if self._secure:
            assert isinstance(self._grid, SecureGrid)
            present = sorted(self._nodes.index(node) for node in total.nodes)
            asked = [held.asked[one] for one in present]
            added = decode_record(held.sent[0].content.get("arrays", ArrayRecord()))  # type: ignore[arg-type]
            exchange = secure_exchange(asked, total, self._grid.options, len(held.sent), added)
            exchange = self._clipped(blurred(exchange, self._noise_in_mean(exchange)))
            return self._seen(held, exchange, tuple(present))
        assert isinstance(self._grid, PrivateGrid)
        mechanism = GaussianSum(self._settings.clipping_norm, self._settings.noise_multiplier)
        everybody = tuple(sorted(held.asked))
        examples = sum(one.examples for one in held.told.values())
        asked = [held.asked[one] for one in everybody]
        exchange = private_exchange(asked, total, mechanism, examples)
        exchange = blurred(exchange, self._noise_in_mean(exchange))
        return self._seen(held, exchange, tuple(sorted(held.told)))

    def _mean(self, held: _Round) -> Seen | None:
        partitions = tuple(sorted(held.told))
        if not partitions:
            return None
        return self._seen(held, mean_exchange([held.told[one] for one in partitions]), partitions)

    def _seen(self, held: _Round, exchange: Exchange, partitions: tuple[int, ...]) -> Seen:
        structure = next(iter(held.asked.values())).request.structure
        size = sum(held.wire_bytes[one] for one in partitions)
        return Seen(exchange, partitions, (exchange.server_round,), structure, size)

    def _clipped(self, exchange: Exchange) -> Exchange:
        """As it is on record that clients clip what they tell."""
        settings = self._settings
        order: Literal[1, 2] = 1 if settings.local_noise == "laplace" else 2
        return replace(exchange, clipping_norm=settings.local_clipping_norm, clipping_order=order)

    def _noise_in_mean(self, exchange: Exchange) -> float:
        """What is left of the clients' own noise, were they all of one size."""
        each = exchange.examples // exchange.clients
        return noise_std_of(self._settings, exchange.training, each) / math.sqrt(exchange.clients)

    def _dialogue(self, partition: int) -> Dialogue:
        if partition not in self._dialogues:
            training, noise = training_of(self._settings), partial(noise_std_of, self._settings)
            self._dialogues[partition] = Dialogue(partition, self._clients, training, self._penalty, noise)
        return self._dialogues[partition]

    def _penalty(self, structure: Structure) -> Penalty | None:
        sparsity = sparsity_of(self._settings)
        if sparsity is None:
            return None
        model = client_model(self._settings)
        return sparsity.remaining(model if structure.is_whole else apply(structure, model))

    def _check_averages(self) -> None:
        if self._settings.strategy not in _AVERAGING:
            raise AuditError(
                f"strategy = {self._settings.strategy!r} makes of updates something else than their mean, so "
                f"what its models show is not known here; take {' or '.join(_AVERAGING)}, or vantage server"
            )


@dataclass(frozen=True, eq=False)
class _Wire:
    recorder: Recorder

    def asking(self, messages: tuple[Message, ...]) -> None:
        self.recorder.outstanding += sum(self.recorder.wants(message) for message in messages)

    def answered(self, sent: Message, reply: Message) -> None:
        self.recorder.hear(sent, reply)

    def summed(self, sent: tuple[Message, ...], total: Folded) -> None:
        raise AuditError("replies were summed on the workers, where no tap is; run with fold = server")


@dataclass(frozen=True, eq=False)
class _Decoded:
    recorder: Recorder

    def asking(self, messages: tuple[Message, ...]) -> None:
        """What is sent is looked at as it travels."""

    def answered(self, sent: Message, reply: Message) -> None:
        self.recorder.take(reply)

    def summed(self, sent: tuple[Message, ...], total: Folded) -> None:
        """Raised by the tap on the wire before."""


@dataclass(frozen=True, eq=False)
class _Released:
    recorder: Recorder

    def asking(self, messages: tuple[Message, ...]) -> None:
        """What is sent is looked at as it travels."""

    def answered(self, sent: Message, reply: Message) -> None:
        """Single replies are taken where they are decoded."""

    def summed(self, sent: tuple[Message, ...], total: Folded) -> None:
        self.recorder.hear_sum(sent, total)


def _trains(message: Message) -> bool:
    kind: str = message.metadata.message_type.partition(".")[0]
    return kind == "train" and message.has_content()


def _round_of(message: Message) -> int:
    config: Any = message.content.get("config")
    values: Mapping[str, Any] = {} if config is None else dict(config.items())
    return int(values.get("server-round", 0))


def _is_input(message: Message) -> bool:
    """Whether an update is what a message of a secure sum asks for."""
    request = request_of(message.content)
    return request is not None and request[0] == Step.INPUT
