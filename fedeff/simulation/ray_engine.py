"""The fast engine: blocks of clients on Ray actors that are kept busy and replaced when they die."""

import contextlib
import logging
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import ray
from flwr.clientapp import ClientApp
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedeff.core.errors import EngineError
from fedeff.core.flower import CLIENT_CRASHED
from fedeff.simulation.block import Block, BlockResult, Job, Outcome, Shared, Site, vector_size
from fedeff.simulation.ray_cluster import Placement
from fedeff.simulation.shipping import packed
from fedeff.simulation.worker import ClientActor, from_buffers, to_buffers

__all__ = ["RayEngine"]

_LOG = logging.getLogger(__name__)
_QUEUED_PER_ACTOR = 2  # one running, one already there
_START_S = 300.0


@dataclass(frozen=True)
class _Task:
    """A block, or one client of a block whose actor died, on its way through an actor."""

    block: Block
    handle: tuple[int, Any]
    parent: int  # index of the block that was submitted
    deaths: int = 0  # of actors that had it


@dataclass
class _Actor:
    handle: Any
    placement: Placement
    tasks: deque[Any] = field(default_factory=deque)  # references, oldest first
    holds_suspect: bool = False  # a task that an actor died with: it runs alone, to know whose fault it is


@dataclass
class _Split:
    """A block whose clients are run one by one, after a worker died on it."""

    block: Block
    results: dict[int, BlockResult] = field(default_factory=dict)


class RayEngine:
    """Runs blocks on Ray actors, one process each, least loaded first.

    When an actor dies, the blocks it had not answered are run again client by client, each with an
    actor to itself (a block that trains in vectors is first run again whole), so that the client that
    ends its process, and only that one, becomes an error reply.
    """

    def __init__(self, app: ClientApp, site: Site, placements: list[Placement]) -> None:
        self.window = 2 * _QUEUED_PER_ACTOR * len(placements)
        self._app, self._site = packed(app), packed(site)
        self._vectorised = vector_size(app) is not None
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, tuple[_Task, _Actor]] = {}
        self._split: dict[int, _Split] = {}
        self._keys = count()
        self._actor_class = ray.remote(ClientActor)
        self.deaths = 0
        self._actors = [self._start(placement) for placement in placements]
        self._check([actor.handle.load.remote(self._app, self._site) for actor in self._actors])

    def share(self, shared: Shared) -> tuple[int, Any]:
        """Put what messages share into the object store, once for all actors."""
        return next(self._keys), ray.put((shared.contents, to_buffers(shared.blobs)))

    def submit(self, block: Block, handle: tuple[int, Any]) -> None:
        """Queue a block for the next free actor."""
        self._waiting.append(_Task(block, handle, block.index))
        self._feed()

    def collect(self, timeout_s: float | None) -> list[BlockResult]:
        """Finished blocks; waits for at least one."""
        finished: list[BlockResult] = []
        while self._running and not finished:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if not ready:
                break
            # whatever else is ready costs no further wait
            more, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in more or ready:
                if reference in self._running:
                    finished += self._take(reference)
            self._feed()
        return finished

    def close(self) -> None:
        """Stop the actors, dropping what they run."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._running.clear()
        self._waiting.clear()

    def _start(self, placement: Placement) -> _Actor:
        search_path = [entry or str(Path.cwd()) for entry in sys.path]
        actor = self._actor_class.options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(placement.node_id, soft=True),
            max_restarts=0,
        ).remote(search_path, str(Path.cwd()))
        return _Actor(actor, placement)

    def _check(self, loads: list[Any]) -> None:
        """Wait until actors have loaded the app; say in one line why one could not."""
        try:
            ray.get(loads, timeout=_START_S)
        except GetTimeoutError as error:
            raise EngineError(
                f"the Ray workers did not start within {_START_S:.0f} s; check `ray status` for free CPUs"
            ) from error
        except RayTaskError as error:
            raise EngineError(f"a worker cannot load the client app: {error.cause!r}") from error
        except RayError as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"a Ray worker died while starting: {reason[:300]}") from error

    def _feed(self) -> None:
        """Hand waiting tasks to the least busy actors; a suspect gets one to itself."""
        while self._waiting:
            actor = min(self._actors, key=lambda a: (a.holds_suspect, len(a.tasks)))
            task = self._waiting[0]
            full = len(actor.tasks) >= (1 if task.deaths else _QUEUED_PER_ACTOR)
            if full or actor.holds_suspect:
                return
            self._waiting.popleft()
            key, shared = task.handle
            buffers = to_buffers(task.block.blobs)
            reference = actor.handle.run_block.remote(replace(task.block, blobs=()), buffers, key, [shared])
            actor.tasks.append(reference)
            actor.holds_suspect = task.deaths > 0
            self._running[reference] = (task, actor)

    def _take(self, reference: Any) -> list[BlockResult]:
        """The result behind a finished reference; after a death, what can be said already."""
        actor = self._running[reference][1]
        try:
            return self._receive(reference)
        except RayActorError:
            return self._bury(actor)

    def _receive(self, reference: Any) -> list[BlockResult]:
        try:
            result, buffers = ray.get(reference)
        except RayTaskError as error:
            raise EngineError(f"a worker failed outside the client app: {error.cause!r}") from error
        task, actor = self._running.pop(reference)
        actor.tasks.remove(reference)
        actor.holds_suspect = False
        return self._finish(task, replace(result, blobs=from_buffers(buffers)))

    def _finish(self, task: _Task, result: BlockResult) -> list[BlockResult]:
        split = self._split.get(task.parent)
        if split is None:
            return [result]
        split.results[task.block.index] = result
        if len(split.results) < len(split.block.jobs):
            return []
        del self._split[task.parent]
        return [_joined(split)]

    def _bury(self, dead: _Actor) -> list[BlockResult]:
        """Replace a dead actor and rerun what it had not answered."""
        self.deaths += 1
        _LOG.warning("a worker died (death %d of this run); it is replaced", self.deaths)
        finished: list[BlockResult] = []
        for reference in list(dead.tasks):  # what it answered before it died still counts
            with contextlib.suppress(RayActorError):
                finished += self._receive(reference)
        lost = [self._running.pop(reference)[0] for reference in dead.tasks]
        fresh = self._start(dead.placement)
        self._actors[self._actors.index(dead)] = fresh
        self._check([fresh.handle.load.remote(self._app, self._site)])
        for task in reversed(lost):
            finished += self._retry(task)
        return finished

    def _retry(self, task: _Task) -> list[BlockResult]:
        """Queue a lost task again, as suspects that run alone; an error where that was its last chance."""
        deaths, clients = task.deaths + 1, len(task.block.jobs)
        if clients == 1 and deaths > 1:
            return self._finish(task, _crashed(task.block))
        if clients == 1 or (self._vectorised and deaths == 1):
            self._waiting.appendleft(replace(task, deaths=deaths))
            return []
        self._split[task.parent] = _Split(task.block)
        singles = [
            _Task(_single(task.block, position), task.handle, task.parent, deaths=1)
            for position in range(clients)
        ]
        self._waiting.extendleft(reversed(singles))
        return []


def _single(block: Block, position: int) -> Block:
    """One client of a block; its index is its place there."""
    return replace(block, index=position, jobs=(block.jobs[position],))


def _crashed(block: Block) -> BlockResult:
    """Error outcomes for clients that ended their worker process twice."""
    return BlockResult(block.index, tuple(_crash(job) for job in block.jobs), ())


def _crash(job: Job) -> Outcome:
    request = job.metadata
    reply = request | {
        "_message_id": "",
        "_src_node_id": request["_dst_node_id"],
        "_dst_node_id": request["_src_node_id"],
        "_src_task_id": request["_dst_task_id"],
        "_dst_task_id": request["_src_task_id"],
        "_reply_to_message_id": request["_message_id"],
    }
    error = (CLIENT_CRASHED, "the client ended its worker process; run it with engine='inline' to see why")
    return Outcome(job.partition, reply, None, error, job.state, False, None)


def _joined(split: _Split) -> BlockResult:
    """The clients' results as their block's, folded in the same order."""
    outcomes: list[Outcome] = []
    blobs: list[bytes] = []
    total: Any = None
    receipts: list[Any] = []
    for position in range(len(split.block.jobs)):
        result = split.results[position]
        outcomes += [_moved(outcome, len(blobs)) for outcome in result.outcomes]
        blobs += result.blobs
        receipts += result.receipts
        if result.total is not None:
            fold = cast(Any, split.block.fold)
            total = result.total if total is None else fold.merge(total, result.total)
    return BlockResult(split.block.index, tuple(outcomes), blobs, total, tuple(receipts))


def _moved(outcome: Outcome, offset: int) -> Outcome:
    """An outcome whose array positions count from `offset`."""
    if outcome.content is None or offset == 0:
        return outcome
    moved = []
    for key, kind, items in outcome.content:
        if not isinstance(items, dict):
            items = tuple((*a[:4], a[4] + offset if isinstance(a[4], int) else a[4]) for a in items)
        moved.append((key, kind, items))
    return outcome._replace(content=tuple(moved))
