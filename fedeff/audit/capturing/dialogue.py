"""One client's messages as the server reads them: what it was asked, what it told, and so its exchanges.

All is read from the bytes that travelled, by the functions that production reads them with.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fedeff.audit.capturing.knowledge import Knowledge, Past, knowledge_of
from fedeff.audit.capturing.local_model import Before, LocalModel
from fedeff.audit.view import Exchange, NDArray, Told
from fedeff.clients import LocalTraining
from fedeff.clients.coding import decoded_content
from fedeff.clients.messages import Request, read_request
from fedeff.clients.penalty import Penalty
from fedeff.compression.wire import entries
from fedeff.core.errors import AuditError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode, decode_record, layer_of
from fedeff.core.parts import key_of, take
from fedeff.grids.instructions import Answer, Instruction, blob_of
from fedeff.grids.metered import scalar_metrics
from fedeff.grids.replicas import Replica, base_of, reference_of
from fedeff.models import Structure

__all__ = ["Asked", "Dialogue", "Heard", "blurred", "parsed", "whole"]

Arrays = Mapping[str, NDArray]


class Noise(Protocol):
    """The standard deviation of a client's own noise; `fedeff.app.local_privacy.noise_std_of` of settings."""

    def __call__(self, training: LocalTraining | None = None, examples: int = 0) -> float:
        """Of the noise on what is told; with a training also of that in its steps."""
        ...


_MOST_BYTES = 2**32
_VALUE = "value:"  # of a metric: an array of gradients that is none, but a buffer as it is


@dataclass(frozen=True, eq=False)
class Asked:
    """A message to train as its client reads it, and the weights that the client then has."""

    request: Request
    before: Before
    base: Mapping[str, Arrays]  # by record: what the reply may hold differences to
    goes_on: bool
    rounds: tuple[int, ...]  # the latest, at whose weights the client has been asked for gradients


@dataclass(frozen=True, eq=False)
class Heard:
    """What a reply tells, and the rounds whose batches it is of: several where gradients were gathered."""

    exchange: Exchange
    rounds: tuple[int, ...]


@dataclass
class Dialogue:
    """What the server knows of one client, message by message, in the order in which the client has them.

    `training` is what clients do where a message says nothing else; `penalty` makes the penalty of a model
    of some structure. `noise` is the deviation of the noise on record that a client puts on what it tells;
    given a training and a number of examples, that of the noise in its steps, too.
    """

    partition: int
    partitions: int
    training: LocalTraining
    penalty: Callable[[Structure], Penalty | None] = lambda structure: None
    noise: Noise = lambda training=None, examples=0: 0.0
    _local: LocalModel = field(default_factory=LocalModel)
    _replica: Replica | None = None
    _past: dict[str, Past] = field(default_factory=dict)  # by record and part
    _gathered: dict[str, int] = field(default_factory=dict)  # gradients by layer since it was sent
    _rounds: tuple[int, ...] = ()  # since the weights changed

    def asked(self, sent: Message) -> Asked:
        """What a message to train asks, as it travelled."""
        instruction = Instruction.of(sent.content)
        base: Mapping[str, Arrays] = {}
        message = sent
        if instruction is not None:
            held = self._replica if instruction.builds_on else None
            content, base = decoded_content(sent.content, instruction, held)
            if instruction.keep:
                self._replica = (held or Replica()).taking(base)
                base = self._replica.records
            message = with_content(sent, content)
        context = Context(
            run_id=0,
            node_id=sent.metadata.dst_node_id,
            node_config={"partition-id": self.partition, "num-partitions": self.partitions},
            state=RecordDict(),
            run_config={},
        )
        request = self._as_trained(read_request(message, context, self.training))
        before = self._local.before(request)
        goes_on = request.keep_optimizer and bool(self._rounds)
        self._rounds = (*(() if request.arrays else self._rounds), request.server_round)
        return Asked(request, before, base, goes_on, self._rounds)

    def told(self, asked: Asked, wire: Message, decoded: Message) -> Heard | None:
        """The exchange that a reply makes, `wire` as it travelled, `decoded` as the strategy gets it.

        None where it tells nothing of what was trained on: errors, measurements of the loss.
        """
        arrays = {} if decoded.has_error() else self._parts(asked, wire, decoded)
        if not arrays:
            self.unseen(asked)
            return None
        metrics = scalar_metrics(decoded)
        training, examples = asked.request.training, int(metrics.get("num-examples", 0))
        exchange = Exchange(
            server_round=asked.request.server_round,
            weights={key: np.array(values) for key, values in asked.before.weights.items()},
            told={},
            training=training,
            examples=examples,
            stale=asked.before.stale,
            goes_on=asked.goes_on,
        )
        if asked.request.procedure != "accumulate":
            exchange = replace(exchange, told=self._changes(asked, arrays))
            return Heard(blurred(exchange, self.noise(training, examples)), asked.rounds[-1:])
        told, count = self._gradients(asked, arrays, metrics)
        training = replace(training, steps=count * training.steps)
        exchange = replace(exchange, kind="gradient", told=told, training=training)
        return Heard(exchange, asked.rounds[-count:])

    def unseen(self, asked: Asked) -> None:
        """Note that the client trained and that nobody sees anything of it."""
        if asked.request.procedure == "accumulate":
            self._gather(asked)
        self._local.after(asked.request, {}, {})

    def _as_trained(self, request: Request) -> Request:
        """With the training as it is, and refused where an exchange cannot say what came."""
        if request.procedure == "coded-gradient":
            raise AuditError(
                "a gradient code sends combinations of several clients' gradients, of which an exchange "
                "cannot tell; audit another strategy, such as fedavg, whose replies show no less"
            )
        training = request.training
        if request.procedure == "accumulate":
            training = replace(training, steps=training.steps or 1)
        if request.penalised and (penalty := self.penalty(request.structure)) is not None:
            training = replace(training, penalty=penalty)
        return replace(request, training=training)

    def _parts(self, asked: Asked, wire: Message, decoded: Message) -> dict[str, Knowledge]:
        """Each part that came: weights, or displacements, or gradients, as the message asked for."""
        answer = Answer.of(wire.content)
        if answer is not None and (answer.fresh or not answer.after):
            self._past = {}
        found: dict[str, Knowledge] = {}
        for name, record in wire.content.items():
            blob = blob_of(record)
            if blob is not None and answer is not None:
                base = base_of(asked.base, name) if answer.difference else {}
                found |= self._opened(name, blob, base, decoded.content[name] if answer.compact else None)
            elif isinstance(record, ArrayRecord):
                found |= {key: Knowledge(values) for key, values in parsed(record).items()}
        return found

    def _opened(self, name: str, blob: bytes, base: Arrays, layout: Any) -> dict[str, Knowledge]:
        """The parts of a coded record; `layout` is of the record decoded, where the blob leaves it out."""
        expected = None
        if layout is not None:
            expected = {key: (one.shape, one.dtype) for key, one in decode_record(layout).items()}
        found = {}
        for entry in entries(blob, None, expected, _MOST_BYTES):
            place = f"{name}/{entry.name}"
            one, self._past[place] = knowledge_of(entry, self._past.get(place, Past()))
            like = np.empty(entry.shape, entry.dtype)
            reference = reference_of(base, entry.name, like)
            if reference is not None:
                one = replace(one, values=one.values + np.asarray(reference, np.float64))
            found[entry.name] = one
        return found

    def _changes(self, asked: Asked, arrays: Mapping[str, Knowledge]) -> dict[str, Told]:
        """What training changed: of displacements as they are, of weights less those before."""
        before = {
            part: values.astype(np.float64) for part, values in take(asked.before.weights, arrays).items()
        }
        if asked.request.reply_with == "displacement":
            after = {part: before[part] + one.values for part, one in arrays.items()}
            changes = dict(arrays)
        else:
            after = {part: one.values for part, one in arrays.items()}
            changes = {part: replace(one, values=one.values - before[part]) for part, one in arrays.items()}
        own = self.noise()  # on what was told, which is then not what the client goes on with
        blurred = {part: replace(one, std=np.hypot(one.std, own)) for part, one in arrays.items()}
        self._local.after(asked.request, blurred, after)
        return whole({part: _told(one) for part, one in changes.items()}, asked.before.weights)

    def _gradients(
        self, asked: Asked, arrays: Mapping[str, Knowledge], metrics: Mapping[str, float]
    ) -> tuple[dict[str, Told], int]:
        """Mean gradients of layers, and over how many rounds the mean is.

        A layer is not known whose mean is over another number of rounds than most, or over rounds before
        the weights were what they are.
        """
        self._gather(asked)
        counts = {part: self._gathered[layer_of(key_of(part))] for part in arrays}
        possible = [count for count in counts.values() if count <= len(asked.rounds)]
        count = max(set(possible), key=possible.count, default=1)
        parts = {
            part: _told(one if counts[part] == count else _unknown(one))
            for part, one in arrays.items()
            if f"{_VALUE}{key_of(part)}" not in metrics
        }
        self._gathered |= {layer_of(key_of(part)): 0 for part in arrays}
        self._local.after(asked.request, arrays, {})
        return whole(parts, asked.before.weights), count

    def _gather(self, asked: Asked) -> None:
        """Count the round's gradients in every layer; a cycle begins with none."""
        cycle = asked.request.cycle
        before = {} if cycle is None or cycle.tag[1] == 0 else self._gathered
        self._gathered = {
            layer: before.get(layer, 0) + 1 for layer in map(layer_of, dict.fromkeys(asked.before.weights))
        }


def parsed(record: ArrayRecord) -> dict[str, NDArray]:
    """The arrays of a record in float64, read from bytes: nothing else that holds them is looked at."""
    return {
        key: np.array(decode(Array(one.dtype, one.shape, one.stype, one.data)), np.float64)
        for key, one in record.items()
    }


def _told(one: Knowledge) -> Told:
    return Told(np.array(one.values, np.float64), one.known, one.std, one.within)


def whole(parts: Mapping[str, Told], weights: Arrays) -> dict[str, Told]:
    """Whole arrays by key, of which the rows that are parts are known; `weights` tell their shapes."""
    found: dict[str, Told] = {}
    for part, one in parts.items():
        key = key_of(part)
        if key == part:
            found[key] = one
            continue
        shape = weights[key].shape
        blank = Told(np.zeros(shape), np.zeros(shape, bool), np.zeros(shape), np.full(shape, math.inf))
        held = found.setdefault(key, blank)
        arrays = (held.values, held.known, held.std, held.within)
        for array, values in zip(arrays, (one.values, one.mask, one.std, one.within), strict=True):
            assert isinstance(array, np.ndarray)
            take({key: array}, [part])[part][...] = values
    return found


def blurred(exchange: Exchange, std: float) -> Exchange:
    """The exchange with so much more noise on every float."""
    told = {
        key: replace(one, std=np.hypot(one.std, std)) if exchange.weights[key].dtype.kind == "f" else one
        for key, one in exchange.told.items()
    }
    return replace(exchange, told=told) if std else exchange


def _unknown(one: Knowledge) -> Knowledge:
    return replace(one, known=np.zeros(one.values.shape, bool), within=math.inf)
