"""A client's turn: from a message and what was kept, to the reply and what is kept next.

Training itself happens between `begin` and the reply, singly or in a block; a turn is the same for
both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, Context, Message

from fedeff.clients.accumulate import Accumulated, Gradient, added, agreements, means, without
from fedeff.clients.kept import Kept, Pack, read_kept, write_kept
from fedeff.clients.messages import CycleRequest, Request, parts_due
from fedeff.clients.replies import diverged, need_full_reply, reply_of, train_metrics
from fedeff.clients.session import displacement, weights_before
from fedeff.clients.training import Array, Moments, Trained
from fedeff.core.flower import array_record
from fedeff.core.layers import decode, decode_record, encode_record, group_layers, hold_record, layer_of
from fedeff.core.parts import key_of, take

__all__ = ["Turn", "accumulate_reply", "begin", "train_reply"]

Metrics = dict[str, int | float]
_NOTHING = Kept()


@dataclass(frozen=True)
class Turn:
    """A request that is to be worked on: from which weights, with what kept, and where to keep more."""

    request: Request
    context: Context
    kept: Kept
    weights: Mapping[str, Array]  # before training, the message applied
    due: tuple[str, ...] | None  # parts to send back; None for all arrays

    @property
    def moments(self) -> Moments | None:
        """The moments that the optimiser goes on from; None where it begins anew and none are kept."""
        return self.kept.moments() if self.request.keep_optimizer else None


def begin(request: Request, context: Context, keys: Sequence[str]) -> Turn | Message:
    """The turn that a request asks for, or the reply where there is nothing to work on.

    That is a repeated request, which is answered again from what was kept, and one that what was
    kept does not fit, which is answered with need-full; what was kept of another version of the model
    never fits. `keys` are those of the model's arrays.
    """
    cycle = request.cycle
    kept = _NOTHING if cycle is None and not request.keep_optimizer else read_kept(context.state)
    kept = kept.of_version(request.structure.version)
    weights: Mapping[str, Array] | None = request.arrays
    if cycle is not None:
        if kept.tag == cycle.tag:
            return _again(request, cycle, kept)
        weights = weights_before(kept, request, cycle, keys)
        kept = kept.in_cycle(cycle.tag[0])
        if weights is None:
            return need_full_reply(request)
        if request.arrays.keys() >= set(keys):  # of what was sent before nothing is left in the weights
            kept = replace(kept, sent={})
    assert weights is not None
    due = None if request.layers_due is None else parts_due(request, weights)
    return Turn(request, context, kept, weights, due)


def train_reply(turn: Turn, trained: Trained, *, hold: bool = False) -> Message:
    """The parts that are due of the trained weights, or of what training changed in them.

    What the client keeps goes to its state. With `hold` arrays are serialised only when they are
    read (see `hold_record`). Raises ReplyError where training diverged; nothing is kept then.
    """
    request, cycle = turn.request, turn.request.cycle
    metrics = train_metrics(request, trained)
    pack: Pack = hold_record if hold else encode_record
    moved = _displacement(turn, trained) if request.reply_with == "displacement" else None
    if cycle is None:
        if trained.moments is not None:
            write_kept(turn.context.state, turn.kept.with_moments(trained.moments, pack))
        arrays = trained.arrays if turn.due is None else take(trained.arrays, turn.due)
        return reply_of(request, pack(arrays if moved is None else moved), metrics)
    model, due = pack(trained.arrays), tuple(trained.arrays) if turn.due is None else turn.due
    reply = _pieces(model, due, pack) if moved is None else pack(moved)
    kept = _after(turn.kept, cycle, model, metrics, reply, told_by_model=moved is None)
    write_kept(turn.context.state, kept.with_moments(trained.moments, pack))
    return reply_of(request, reply, metrics)


def accumulate_reply(turn: Turn, gradient: Gradient) -> Message:
    """The layers' agreements with one gradient more, and the mean gradients that are due.

    Buffers, which have no gradient, are sent as they are and told apart by a metric `value:KEY`; the
    client keeps them between rounds. Layers of which any part is due begin to accumulate anew. Raises
    ReplyError where the loss or the gradient is not finite.
    """
    request, cycle, keys = turn.request, turn.request.cycle, tuple(turn.weights)
    assert cycle is not None
    sums = {} if turn.kept.accumulated is None else decode_record(turn.kept.accumulated)
    before = Accumulated(sums, turn.kept.counts)
    local = {**turn.weights, **gradient.buffers}
    agreed = agreements(before, gradient.arrays, keys)
    if not all(abs(value) < float("inf") for value in (gradient.loss, *agreed.values())):
        raise diverged(request, gradient.loss)
    metrics: Metrics = {
        "num-examples": gradient.examples,
        "num-steps": gradient.steps,
        "partition-id": request.partition,
        "train-loss": gradient.loss,
        **{f"agreement:{layer}": value for layer, value in agreed.items()},
        **{f"value:{key}": 1 for key in gradient.buffers},
    }
    due = keys if turn.due is None else turn.due
    named = {layer_of(key_of(part)) for part in due}
    layers = [layer for layer in group_layers(keys) if layer in named]
    after = added(before, gradient.arrays, keys)
    reply = encode_record(take({**means(after, turn.weights, layers), **gradient.buffers}, due))
    left = without(after, layers)
    sums_left = encode_record(left.sums) if left.sums else None
    kept = replace(turn.kept, accumulated=sums_left, counts=left.counts)
    kept = _after(kept, cycle, encode_record(local), metrics, reply, told_by_model=False)
    write_kept(turn.context.state, kept)
    return reply_of(request, reply, metrics)


def _displacement(turn: Turn, trained: Trained) -> dict[str, Array]:
    return displacement(trained.arrays, turn.weights, trained.arrays if turn.due is None else turn.due)


def _after(
    kept: Kept,
    cycle: CycleRequest,
    model: ArrayRecord,
    metrics: Metrics,
    reply: ArrayRecord,
    *,
    told_by_model: bool,
) -> Kept:
    """What is kept after a round of a cycle; the reply only where nothing else tells it."""
    sent = {round: record for round, record in kept.sent.items() if round not in cycle.corrects}
    own = array_record(dict(reply.items()))  # the reply's record may be changed on its way out
    if cycle.keep_sent:
        sent[cycle.tag[1]] = own
    return replace(
        kept,
        tag=cycle.tag,
        versions=cycle.layer_versions,
        model=model,
        metrics=metrics,
        reply=None if told_by_model or cycle.keep_sent else own,
        sent=sent,
    )


def _again(request: Request, cycle: CycleRequest, kept: Kept) -> Message:
    """The reply that was given to this request before."""
    assert kept.model is not None
    if cycle.tag[1] in kept.sent:
        reply = array_record(dict(kept.sent[cycle.tag[1]].items()))
    elif kept.reply is not None:
        reply = array_record(dict(kept.reply.items()))
    else:
        due = parts_due(request, decode_record(kept.model))
        reply = _pieces(kept.model, due, encode_record)
    return reply_of(request, reply, dict(kept.metrics))


def _pieces(model: ArrayRecord, parts: Sequence[str], pack: Pack) -> ArrayRecord:
    """Parts of a record: whole arrays are shared with it, so that their bytes are made once."""
    held = dict(model.items())
    rows = [part for part in parts if part not in held]
    cut = pack(take({key_of(part): decode(held[key_of(part)]) for part in rows}, rows))
    return array_record({part: held[part] if part in held else cut[part] for part in parts})
