"""A block of clients: what travels to a worker, what comes back, and running one.

Both engines run blocks by `run_block`; the inline engine calls it, the Ray engine sends it. All
that crosses is plain values and bytes, so a client shares nothing with another one or the server.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedeff.core.delays import VirtualClock
from fedeff.core.flower import (
    CLIENT_RAISED,
    Blobs,
    PackedContent,
    UserConfig,
    error_reply,
    message_from,
    metadata_of,
    pack_content,
    unpack_content,
)
from fedeff.core.layers import payload_bytes
from fedeff.core.link import Trip
from fedeff.grids.cohort import Fold, Receipt
from fedeff.grids.metered import scalar_metrics
from fedeff.simulation.seeding import seed_global_generators

__all__ = [
    "STEPS_KEY",
    "Block",
    "BlockResult",
    "Job",
    "Outcome",
    "Shared",
    "Site",
    "is_late",
    "reply_message",
    "run_block",
    "vector_size",
]

STEPS_KEY = "num-steps"  # of a reply's metrics: local steps taken, for the virtual clock


class Job(NamedTuple):
    """One message for one client."""

    partition: int
    metadata: dict[str, Any]
    content: int | PackedContent  # a position among the shared contents, or its own
    state: bytes | None


@dataclass(frozen=True)
class Shared:
    """Contents and array bytes that several messages of one exchange hold in common."""

    contents: tuple[PackedContent, ...]
    blobs: Sequence[bytes]


@dataclass(frozen=True)
class Block:
    """Some messages of one exchange, in partition order; `blobs` are the bytes only they carry."""

    index: int
    jobs: tuple[Job, ...]
    blobs: Sequence[bytes]
    fold: Fold | None = None
    exchange: int = 0
    timeout_s: float | None = None  # virtual; a later client is left out of a fold


class Outcome(NamedTuple):
    """What became of one job: a packed reply, an error, or a reply that went into the fold."""

    partition: int
    metadata: dict[str, Any]
    content: PackedContent | None
    error: tuple[int, str] | None
    state: bytes | None
    state_changed: bool
    trip: Trip | None  # None without a virtual clock, and for a client that died


@dataclass(frozen=True)
class BlockResult:
    """The outcomes of a block in its jobs' order, and the fold of its replies."""

    index: int
    outcomes: tuple[Outcome, ...]
    blobs: Sequence[bytes]
    total: Any = None
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Site:
    """What every client of a run knows besides its message."""

    run_id: int
    num_partitions: int
    run_config: UserConfig = field(default_factory=dict)
    clock: VirtualClock | None = None
    seed: int | None = None  # of the global generators that clients may draw from

    def context(self, job: Job) -> Context:
        """The client's context, its own copy of everything."""
        return Context(
            run_id=self.run_id,
            node_id=job.metadata["_dst_node_id"],
            node_config={"partition-id": job.partition, "num-partitions": self.num_partitions},
            state=RecordDict() if job.state is None else _load_state(job.state),
            run_config=dict(self.run_config),
        )

    def seed_for(self, job: Job, block: "Block") -> None:
        """Seed the global generators for one client's message, if the run has a seed."""
        if self.seed is not None:
            seed_global_generators(self.seed, purpose="client", round=block.exchange, client=job.partition)


class _RunsBlocks(Protocol):
    """A ClientApp that can train up to `block_size` clients at once; None says not here."""

    block_size: int | None

    def run_block(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> Sequence[Message | Exception]: ...


def vector_size(app: ClientApp) -> int | None:
    """How many clients the app trains at once at most, if it offers to: its own `block_size`."""
    return getattr(app, "block_size", None) if hasattr(app, "run_block") else None


def run_block(app: ClientApp, block: Block, shared: Shared, site: Site) -> BlockResult:
    """Run every client of a block and pack what they answer.

    An exception in a client becomes its error reply and never its neighbour's. Replies that the
    block folds are added in the jobs' order and not kept.
    """
    blobs = [*shared.blobs, *block.blobs] if block.blobs else shared.blobs
    outcomes, packed, receipts = [], Blobs(), []
    total: Any = None
    for job, down_bytes, reply, context in _answers(app, block, shared, blobs, site):
        outcome = _outcome(job, reply, context, block, down_bytes, site, packed)
        if block.fold is not None and outcome.error is None and not is_late(outcome, block.timeout_s):
            total = block.fold.add(total, reply)
            receipts.append(_receipt(reply, down_bytes))
        outcomes.append(outcome)
    return BlockResult(block.index, tuple(outcomes), packed.items, total, tuple(receipts))


_Answer = tuple[Job, int, Message, Context]


def _answers(
    app: ClientApp, block: Block, shared: Shared, blobs: Sequence[bytes], site: Site
) -> Iterator[_Answer]:
    """Each job with its reply; a client app that offers it gets the block at once, in vectors."""
    stride = vector_size(app)
    together = cast(_RunsBlocks, app) if stride else None
    for first in range(0, len(block.jobs), stride or 1):
        jobs = block.jobs[first : first + (stride or 1)]
        messages = [_message(job, shared, blobs) for job in jobs]
        contexts = [site.context(job) for job in jobs]
        down = [payload_bytes(message.content) for message in messages]
        if together is None:
            site.seed_for(jobs[0], block)
            replies: Sequence[Any] = [_call(app, messages[0], contexts[0])]
        else:
            replies = _call_together(together, messages, contexts)
        for job, size, message, reply, context in zip(jobs, down, messages, replies, contexts, strict=True):
            yield job, size, _checked(reply, message), context


def _message(job: Job, shared: Shared, blobs: Sequence[bytes]) -> Message:
    content = shared.contents[job.content] if isinstance(job.content, int) else job.content
    return message_from(job.metadata, unpack_content(content, blobs))


def _call(app: ClientApp, message: Message, context: Context) -> Any:
    try:
        return app(message, context)
    except (Exception, SystemExit) as error:
        return error


def _call_together(
    app: _RunsBlocks, messages: Sequence[Message], contexts: Sequence[Context]
) -> Sequence[Any]:
    try:
        return app.run_block(messages, contexts)
    except (Exception, SystemExit) as error:
        return [error] * len(messages)


def _checked(reply: Any, request: Message) -> Message:
    """The reply, or the error reply that Flower sends where a client raised."""
    if isinstance(reply, Message):
        return reply
    if not isinstance(reply, Exception | SystemExit):
        reply = TypeError(f"the ClientApp returned {type(reply).__name__}, expected a Message")
    return error_reply(request, CLIENT_RAISED, f"{type(reply)}:<'{reply}'>")


def _outcome(
    job: Job, reply: Message, context: Context, block: Block, down_bytes: int, site: Site, blobs: Blobs
) -> Outcome:
    failed = reply.has_error()
    state = _dump_state(context.state)
    return Outcome(
        partition=job.partition,
        metadata=metadata_of(reply),
        content=None if failed or block.fold is not None else pack_content(reply.content, blobs),
        error=(reply.error.code, reply.error.reason or "") if failed else None,
        state=state,
        state_changed=not failed and state != job.state,
        trip=_trip(job, reply, block, down_bytes, site),
    )


def _trip(job: Job, reply: Message, block: Block, down_bytes: int, site: Site) -> Trip | None:
    if site.clock is None:
        return None
    up_bytes = 0 if reply.has_error() else payload_bytes(reply.content)
    steps = 0 if reply.has_error() else int(scalar_metrics(reply).get(STEPS_KEY, 1))
    return site.clock.trip(job.partition, block.exchange, steps, down_bytes, up_bytes)


def is_late(outcome: Outcome, timeout_s: float | None) -> bool:
    """Whether the answer comes after so many virtual seconds; never where there is no clock."""
    return timeout_s is not None and outcome.trip is not None and outcome.trip.alone_s > timeout_s


def _receipt(reply: Message, down_bytes: int) -> Receipt:
    return Receipt(
        reply.metadata.src_node_id, down_bytes, payload_bytes(reply.content), scalar_metrics(reply)
    )


def _dump_state(state: RecordDict) -> bytes | None:
    if not state:
        return None
    blobs = Blobs()
    packed = pack_content(state, blobs)
    return pickle.dumps((packed, blobs.items), protocol=5)


def _load_state(state: bytes) -> RecordDict:
    packed, blobs = pickle.loads(state)
    return unpack_content(packed, blobs)


def reply_message(outcome: Outcome, blobs: Sequence[bytes]) -> Message:
    """The reply as the server gets it."""
    if outcome.error is not None:
        return message_from(outcome.metadata, None, Error(*outcome.error))
    assert outcome.content is not None
    return message_from(outcome.metadata, unpack_content(outcome.content, blobs))
