"""All bookkeeping of a pool, without Ray and without a clock: what happened comes in, what to do goes out."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import fields

from fedeff.codes.code import Code
from fedeff.codes.pool.arrays import Call, as_array, is_finite
from fedeff.codes.pool.dispatch import Copy, Dispatch
from fedeff.codes.pool.group import Group
from fedeff.codes.pool.grouping import Grouping
from fedeff.codes.pool.items import Item
from fedeff.codes.pool.policy import Policy
from fedeff.codes.pool.progress import Progress
from fedeff.codes.pool.results import PoolStatistics
from fedeff.codes.pool.roster import Roster
from fedeff.core.errors import CodeError

__all__ = ["Scheduler"]


class Scheduler:
    """Groups, tasks and items of a pool; `now` is the caller's clock in seconds.

    The caller sends what `next_copy` gives, and says of every copy what came of it: `answered`, `raised`,
    `lost`, `died`, or `late` where the answer is not `wanted`. Each item gets one outcome and is taken once.
    """

    def __init__(
        self, code: Code, policy: Policy, actors: Sequence[Hashable], parity_actors: Sequence[Hashable]
    ) -> None:
        self.items: dict[int, Item] = {}  # not yet returned, in order of submission
        self.roster = Roster(code, actors, parity_actors)
        self._policy = policy
        self._counts: Counter[str] = Counter()
        self._grouping = Grouping(code.k, policy.flush_after_s)
        self._dispatch = Dispatch(self.roster, policy.hedge_after_s, self._counts)
        self._progress = Progress(code, policy, self._dispatch, self._counts)

    @property
    def statistics(self) -> PoolStatistics:
        """The counters as they are now."""
        return PoolStatistics(**{field.name: self._counts[field.name] for field in fields(PoolStatistics)})

    # --- what the consumer does -------------------------------------------------------------------

    def submit(self, fn: Call, value: object, now: float) -> bool:
        """Takes in an item; whether its group is full with that, and closed.

        Raises:
            CodeError: if the value is no array of numbers.
        """
        item = Item(self._counts["items"], fn, value, as_array(value, "the submitted value"), now)
        self._counts["items"] += 1
        self.items[item.index] = item
        full = self._grouping.add(item)
        if full is not None:
            self._begin(*full)
        return full is not None

    def flush(self, item: Item | None = None) -> None:
        """Closes all open groups, or the one that an item waits in."""
        waiting = self._grouping.all() if item is None else [self._grouping.of(item)]
        for group in waiting:
            if group is not None:
                self._begin(*group)

    def take_ready(self) -> Item | None:
        """The item that has had its outcome for longest; it is returned now."""
        item = next(iter(self._progress.ready.values()), None)
        if item is not None:
            self.take(item)
        return item

    def take(self, item: Item) -> None:
        """The item, which has its outcome, is returned now."""
        del self.items[item.index], self._progress.ready[item.index]

    def abandon(self, item: Item, now: float) -> None:
        """Nobody waits for the item any more; what was sent for it runs on."""
        del self.items[item.index]
        self._progress.ready.pop(item.index, None)
        item.abandoned = True
        self._grouping.drop(item)
        for group in [group for group in self._progress.groups if item in group.items]:
            self._progress.advance(group, now)

    def push(self, actor: Hashable, parity: int, now: float) -> None:
        """Takes in an actor; work that nobody could do before goes to it."""
        self.roster.add(actor, parity)
        self._progress.advance_all(now)

    def has_free(self) -> bool:
        """Whether an actor is idle, and no task waits for one."""
        return self.roster.own_idle() and not self.waiting()

    def waiting(self) -> bool:
        """Whether a task waits for an actor."""
        return self._dispatch.waiting()

    def under_way(self) -> bool:
        """Whether any closed group has items without an outcome."""
        return bool(self._progress.groups)

    # --- what time does ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Closes groups that have been open for too long, and ends those that are past their deadline."""
        for its, items in self._grouping.due(now):
            self._begin(its, items)
        for group in [group for group, due_s in self._deadlines() if now >= due_s]:
            group.overdue = True
            self._progress.advance(group, now)
            if group.unsettled and self._policy.on_undecodable != "wait":
                self._progress.give_up(group, f"by the deadline of {self._policy.deadline_s:g} s", now)

    def wake_s(self) -> float | None:
        """When `tick` or `next_copy` has something to do if nothing happens before."""
        deadlines = (due_s for _, due_s in self._deadlines())
        times = (self._grouping.due_s(), self._dispatch.hedge_s(), *deadlines)
        return min((time for time in times if time is not None), default=None)

    # --- what actors do ---------------------------------------------------------------------------

    def next_copy(self, now: float) -> Copy | None:
        """A task to send now, and to whom; nothing where there is none, or nobody idle."""
        return self._dispatch.next(now)

    def wanted(self, copy: Copy) -> bool:
        """Whether a copy's answer is still of use; where not, it need not be fetched."""
        return copy.group.serves(copy.task)

    def late(self, copy: Copy) -> None:
        """A copy ended after anybody needed its answer."""
        self._dispatch.back(copy)
        self._counts["late"] += 1

    def answered(self, copy: Copy, answer: object, now: float) -> None:
        """A copy's answer came."""
        if not self.wanted(copy):
            return self.late(copy)
        self._dispatch.back(copy)
        try:
            array = as_array(answer, "the function's answer")
        except CodeError as error:
            return self._progress.failed(copy, error, now)
        task = copy.task
        task.tried.add(copy.actor)
        if is_finite(array):
            task.answer, task.array = answer, array
        else:
            self._progress.refuse(task)
        return self._progress.advance(copy.group, now)

    def lost(self, copy: Copy, now: float) -> None:
        """An answer was lost on its way, and its actor lives."""
        if not self.wanted(copy):
            return self.late(copy)
        self._dispatch.back(copy)
        self._progress.refuse(copy.task)
        return self._progress.advance(copy.group, now)

    def raised(self, copy: Copy, error: Exception, now: float) -> None:
        """The function raised at the actor. It is the item's outcome, unless another copy is under way."""
        if not self.wanted(copy):
            return self.late(copy)
        self._dispatch.back(copy)
        return self._progress.failed(copy, error, now)

    def died(self, copy: Copy, error: Exception, now: float) -> None:
        """The actor that had a copy died, for this reason: it leaves, and the copy is erased."""
        self._dispatch.back(copy)
        self._progress.latest_death = error
        self.roster.remove(copy.actor)
        self._counts["deaths"] += 1
        self._counts["erased_by_death"] += 1
        self._progress.advance_all(now)

    def stranded(self, now: float) -> None:
        """Nothing is under way and nothing can be sent: gives up what nobody will answer."""
        self._progress.advance_all(now)

    def _begin(self, its: Hashable, items: list[Item]) -> None:
        self._progress.begin(its, items, self.roster.lane)

    def _deadlines(self) -> list[tuple[Group, float]]:
        """When groups of which anything was sent must end, of those that have not been told yet."""
        deadline_s = self._policy.deadline_s
        if deadline_s is None:
            return []
        started = self._dispatch.started.items()
        return [(group, sent_s + deadline_s) for group, sent_s in started if not group.overdue]
