"""The surface of `ray.util.ActorPool` over a scheduler, for any way of sending tasks."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedeff.codes.code import Code
from fedeff.codes.pool.arrays import Call
from fedeff.codes.pool.dispatch import Copy
from fedeff.codes.pool.items import OWN, Item
from fedeff.codes.pool.policy import Policy
from fedeff.codes.pool.results import Coded, PoolStatistics
from fedeff.codes.pool.scheduler import Scheduler
from fedeff.core.errors import CodeError

__all__ = ["Answer", "CodedPool", "Died", "Lost", "Raised", "Transport"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task gave."""

    value: object


@dataclass(frozen=True, eq=False)
class Raised:
    """A task ended in an exception of the function's own."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """A task's answer got lost, and its actor lives."""


@dataclass(frozen=True, eq=False)
class Died:
    """A task ended with its actor."""

    error: Exception


class Transport(Protocol):
    """How tasks get to actors and answers back, and the clock they do it by."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def send(self, fn: Call, actor: Any, value: object) -> Hashable | Raised | Died:
        """A reference to the answer of `fn(actor, value)`, or why there will be none."""
        ...

    def wait(self, references: list[Any], timeout_s: float | None) -> list[Any]:
        """Those that have come to an end; waits for one, but no longer than the timeout."""
        ...

    def fetch(self, references: list[Any]) -> list[Answer | Raised | Lost | Died]:
        """How each of these came to an end."""
        ...


class CodedPool:
    """Submits items in groups under a code and returns each once; see `CodedActorPool`.

    Everything happens inside its calls, as in `ray.util.ActorPool`: there is no thread.
    """

    def __init__(
        self,
        transport: Transport,
        actors: Sequence[Any],
        parity_actors: Sequence[Any],
        code: Code,
        policy: Policy,
        values_only: bool,
    ) -> None:
        self._transport, self._values_only = transport, values_only
        self._scheduler = Scheduler(code, policy, actors, parity_actors)
        self._copies: dict[Any, Copy] = {}  # by reference

    @property
    def statistics(self) -> PoolStatistics:
        """Counters of what has happened so far."""
        return self._scheduler.statistics

    def submit(self, fn: Call, value: Any) -> None:
        """Takes in an item: `fn(actor, value)` is called for an actor, and returns an `ObjectRef`.

        The value must stay as it is until its result is there: it may be sent later, and again.

        Raises:
            CodeError: if the value is no array of numbers.
        """
        self._scheduler.tick(self._transport.now())
        self._take_in(fn, value)
        self._send()

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Results of all values in their order; what was submitted before is abandoned."""
        self._submit_all(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Results of all values as they come; what was submitted before is abandoned."""
        self._submit_all(fn, values)
        return self._results(self.get_next_unordered)

    def has_next(self) -> bool:
        """Whether anything submitted was not returned yet."""
        return bool(self._scheduler.items)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of the item submitted first, of those not returned; closes its group if that is open.

        Raises:
            StopIteration: if there is none.
            TimeoutError: after `timeout` seconds; with `ignore_if_timedout` the item is abandoned then.
            CodeError: if the item cannot be decoded (`on_undecodable`), once; the item is returned with that.
            Exception: what `fn` raised for the item, unless it was reconstructed before.
        """
        item = self._first()
        self._scheduler.flush(item)
        if not self._work(lambda: item.outcome is not None, timeout):
            raise self._timed_out(item, ignore_if_timedout)
        self._scheduler.take(item)
        return self._outcome(item)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result that came first, of those not returned; raises as `get_next` does.

        Open groups are closed when nothing else is under way, or by their timer.
        """
        oldest, found = self._first(), list[Item]()

        def find() -> bool:
            item = self._scheduler.take_ready()
            found.extend([item] if item else [])
            return item is not None

        if not self._work(find, timeout):
            raise self._timed_out(oldest, ignore_if_timedout)
        return self._outcome(found[0])

    def has_free(self) -> bool:
        """Whether an actor is idle and no task waits for one."""
        return self._scheduler.has_free()

    def pop_idle(self) -> Any | None:
        """An idle actor, which leaves the pool, if `has_free`; never one given for parities."""
        return self._scheduler.roster.take_own() if self.has_free() else None

    def push(self, actor: Any, *, parity: int | None = None) -> None:
        """Takes in an actor, for instance in place of one that died; for this parity if one is given.

        Raises:
            ValueError: if the pool has it already.
        """
        self._scheduler.push(actor, OWN if parity is None else parity, self._transport.now())
        self._send()

    def _first(self) -> Item:
        for item in self._scheduler.items.values():
            return item
        raise StopIteration("No more results to get")

    def _submit_all(self, fn: Call, values: Iterable[Any]) -> None:
        for item in list(self._scheduler.items.values()):
            self._scheduler.abandon(item, self._transport.now())
        for value in values:  # more will come, so no timer closes their groups
            self._take_in(fn, value)
        self._scheduler.flush()
        self._send()

    def _take_in(self, fn: Call, value: Any) -> None:
        if self._scheduler.submit(fn, value, self._transport.now()):
            self._send()
            self._refill()

    def _results(self, get: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield get()

    def _outcome(self, item: Item) -> Any:
        outcome = item.outcome
        if isinstance(outcome, Coded):
            return outcome.value if self._values_only else outcome
        assert outcome is not None
        raise outcome

    def _timed_out(self, item: Item, ignore: bool) -> TimeoutError:
        if not ignore:
            return TimeoutError("Timed out waiting for result")
        self._scheduler.abandon(item, self._transport.now())
        return TimeoutError(f"Timed out waiting for result. Item {item.index} has been ignored.")

    def _work(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Keeps the pool going until `done`, or for so long; whether it is done."""
        end_s = None if timeout_s is None else self._transport.now() + timeout_s
        last = False
        self._refill()
        while not done():
            now = self._transport.now()
            self._scheduler.tick(now)
            if not self._scheduler.under_way():
                self._scheduler.flush()
            self._send()
            if done():
                return True
            if last:
                return False
            last = end_s is not None and now >= end_s
            if self._copies:
                times = [time for time in (end_s, self._scheduler.wake_s()) if time is not None]
                self._receive(max(0.0, min(times) - now) if times else None)
            else:
                self._scheduler.stranded(now)
        return True

    def _refill(self) -> None:
        """Gives actors that are done, though nobody asked, what waits in line."""
        if self._copies and self._scheduler.waiting():
            self._receive(0.0)

    def _send(self) -> None:
        """Sends all that can be sent."""
        while (copy := self._scheduler.next_copy(self._transport.now())) is not None:
            reference = self._transport.send(copy.task.fn, copy.actor, copy.task.value)
            if reference in self._copies:
                reference = Raised(
                    CodeError("fn returned a reference twice; expected a new task at each call")
                )
            if isinstance(reference, Died):
                self._scheduler.died(copy, reference.error, self._transport.now())
            elif isinstance(reference, Raised):
                self._scheduler.raised(copy, reference.error, self._transport.now())
            else:
                self._copies[reference] = copy

    def _receive(self, timeout_s: float | None) -> None:
        """Waits for copies to come back, and takes in all that did."""
        ended = self._transport.wait(list(self._copies), timeout_s)
        wanted = [reference for reference in ended if self._scheduler.wanted(self._copies[reference])]
        results = dict(zip(wanted, self._transport.fetch(wanted), strict=True))
        now = self._transport.now()
        for reference in ended:
            self._take(self._copies.pop(reference), results.get(reference), now)
        self._send()

    def _take(self, copy: Copy, result: Answer | Raised | Lost | Died | None, now: float) -> None:
        if isinstance(result, Died):
            self._scheduler.died(copy, result.error, now)
        elif result is None:
            self._scheduler.late(copy)
        elif isinstance(result, Answer):
            self._scheduler.answered(copy, result.value, now)
        elif isinstance(result, Raised):
            self._scheduler.raised(copy, result.error, now)
        else:
            self._scheduler.lost(copy, now)
