"""What follows for a group when something happened to it: outcomes, decoding, sending again, giving up."""

from collections import Counter
from collections.abc import Callable, Hashable

import numpy as np

from fedeff.codes.code import Code
from fedeff.codes.pool.dispatch import Copy, Dispatch
from fedeff.codes.pool.group import Group
from fedeff.codes.pool.items import Item, Known, Task
from fedeff.codes.pool.policy import Policy
from fedeff.codes.pool.results import Coded
from fedeff.core.errors import CodeError

__all__ = ["Progress"]

_KINDS_KNOWN = 8


class Progress:
    """Groups with items that have no outcome, and the outcomes of others' items until they are taken."""

    def __init__(self, code: Code, policy: Policy, dispatch: Dispatch, counts: Counter[str]) -> None:
        self._code, self._policy, self._dispatch, self._counts = code, policy, dispatch, counts
        self.groups: dict[Group, None] = {}
        self.ready: dict[int, Item] = {}  # in the order of outcomes
        self.latest_death: Exception | None = None  # what Ray said of it
        self._known: dict[Hashable, Known] = {}

    def begin(self, its: Hashable, items: list[Item], parity_lane: Callable[[int], int]) -> None:
        """Makes a group of items of one kind and puts its tasks into line."""
        group = Group(self._code, its, items, self._known.get(its))
        self._counts["groups"] += 1
        self._counts["short_groups"] += len(items) < self._code.k
        try:
            tasks = group.encode(parity_lane)
        except Exception as error:  # whatever is wrong, the items' callers are told, each once
            for item in items:
                self._settle(item, error)
            return
        self.groups[group] = None
        for task in tasks:
            self._dispatch.queue(group, task)

    def failed(self, copy: Copy, error: Exception, now: float) -> None:
        """A copy, which is back, brought an exception; the task is not sent again."""
        self._counts["raised"] += 1
        copy.task.error = error
        self.advance(copy.group, now)

    def advance(self, group: Group, now: float) -> None:
        """Gives outcomes to items that can have one, and sends again what is needed for the others."""
        known = self._known.get(group.kind)
        if group.shape is None and known is not None:  # from a group that was answered since
            group.shape = known.answer.shape
        for task in group.agree(force=group.overdue or not self._may_answer(group)):
            self.refuse(task)
        self._settle_own(group, now)
        self._remember(group)
        if group.unsettled and (group.overdue or group.enough(group.mask(group.came))):
            self._decode(group, now)
        if group.unsettled and not self._resend(group) and not self._may_answer(group):
            self._decode(group, now)  # from however few: there will be no more
            self.give_up(group, "and no more will come", now)
        self._end(group)

    def advance_all(self, now: float) -> None:
        """Does that for all groups, after actors came or went."""
        for group in list(self.groups):
            self.advance(group, now)

    def _end(self, group: Group) -> None:
        """Forgets a group in which every item has its outcome."""
        if not group.unsettled:
            self.groups.pop(group, None)
            self._dispatch.started.pop(group, None)

    def _may_answer(self, group: Group) -> bool:
        return any(map(self._dispatch.may_answer, group.tasks.values()))

    def _settle_own(self, group: Group, now: float) -> None:
        """Items get the answer of their own task, or its exception if no other copy is under way."""
        for item in group.unsettled:
            task = group.own(item)
            if task is None:
                return
            if group.came(task):
                self._settle(item, Coded(task.answer, False, 1.0, now - item.submitted_s))
            elif task.error is not None and task.array is None and not self._dispatch.may_answer(task):
                self._settle(item, task.error)

    def _remember(self, group: Group) -> None:
        known = group.known() if group.kind not in self._known else None
        if known is not None:
            self._known[group.kind] = known
            if len(self._known) > _KINDS_KNOWN:
                del self._known[next(iter(self._known))]

    def _decode(self, group: Group, now: float) -> None:
        decoded = group.decode()
        if decoded is None:
            return
        for item in group.unsettled:
            quality = float(decoded.quality[group.items.index(item)])
            value = group.estimate(decoded, item)
            if np.isnan(quality) and self._policy.min_quality > 0:
                self._settle(item, self._unmeasured())
            elif value is None or quality < self._policy.min_quality:
                group.refused = True
                self._counts["refused"] += 1
            else:
                self._settle(item, Coded(value, True, quality, now - item.submitted_s))
                self._counts["reconstructed"] += 1

    def _resend(self, group: Group) -> bool:
        """Queues erased tasks again, as many as the group cannot do without; whether there were any."""
        sent = False

        def coming(task: Task) -> bool:
            return task.array is not None or self._dispatch.may_answer(task)

        for task in group.tasks.values():
            if self._covered(group, coming):
                break
            if task.lost:
                sent |= self._dispatch.queue(group, task, first=True)
        return sent

    def _covered(self, group: Group, coming: Callable[[Task], bool]) -> bool:
        """Whether all items will be answered if these tasks are."""
        own = [group.own(item) for item in group.unsettled]
        if all(task is not None and coming(task) for task in own):
            return True
        return not group.refused and group.enough(group.mask(coming))

    def give_up(self, group: Group, why: str, now: float) -> None:
        """Gives the default or an error to all items without an outcome."""
        came = sum(map(group.came, group.tasks.values()))
        raised = next((task.error for task in group.tasks.values() if task.error), None)
        for item in group.unsettled:
            self._counts["undecodable"] += 1
            if self._policy.on_undecodable == "default":
                self._settle(item, Coded(self._policy.default, True, 0.0, now - item.submitted_s))
            elif raised is not None and not self._code.systematic:
                self._settle(item, raised)
            else:
                self._settle(item, self._undecodable(group, came, why, raised or self.latest_death))
        self._end(group)

    def _undecodable(self, group: Group, came: int, why: str, cause: Exception | None) -> CodeError:
        refused = sum(task.bad for task in group.tasks.values())
        unfit = f" ({refused} more were not finite, of another shape, or lost)" if refused else ""
        quality = f" with a quality of {self._policy.min_quality:g}" if group.refused else ""
        error = CodeError(
            f"{came} of a group's {len(group.tasks)} answers came{unfit} {why}: too few{quality}; "
            "allow more time or more actors, or use on_undecodable='default'"
        )
        error.__cause__ = cause
        return error

    def _unmeasured(self) -> CodeError:
        return CodeError(
            f"min_quality is {self._policy.min_quality:g}, but this code's estimates were never measured; "
            "measure them, or use min_quality=0"
        )

    def _settle(self, item: Item, outcome: Coded | Exception) -> None:
        item.outcome = outcome
        self.ready[item.index] = item

    def refuse(self, task: Task) -> None:
        """Counts a task's answer as an erasure."""
        self._counts["erased_by_result"] += 1
        task.refuse()
