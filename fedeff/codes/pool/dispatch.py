"""Tasks on their way to actors: what waits, which goes next and to whom, and which is sent again."""

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass

from fedeff.codes.pool.group import Group
from fedeff.codes.pool.items import OWN, Task
from fedeff.codes.pool.roster import Roster

__all__ = ["Copy", "Dispatch"]


@dataclass(eq=False)
class Copy:
    """A task at an actor."""

    group: Group
    task: Task
    actor: Hashable
    sent_s: float


class Dispatch:
    """Queues of tasks, one a lane, and the copies at actors; one copy an actor at a time.

    Items go first, to their own actors; then parities to theirs; then items to idle parity actors. What a
    group no longer needs is not sent at all; what was sent is never cancelled.
    """

    def __init__(self, roster: Roster, hedge_after_s: float | None, counts: Counter[str]) -> None:
        self._roster, self._hedge_after_s, self._counts = roster, hedge_after_s, counts
        self._queues: dict[int, deque[tuple[Group, Task]]] = {OWN: deque()}
        self.copies: dict[Copy, None] = {}  # oldest first
        self.started: dict[Group, float] = {}  # when the first of each group went out

    def queue(self, group: Group, task: Task, first: bool = False) -> bool:
        """Puts a task into line, unless there is nobody who could do it."""
        if not self._roster.serves(task.lane):
            return False
        line = self._queues.setdefault(task.lane, deque())
        (line.appendleft if first else line.append)((group, task))
        task.queued = True
        return True

    def may_answer(self, task: Task) -> bool:
        """Whether an answer is still to be expected."""
        return task.live > 0 or (task.queued and self._roster.serves(task.lane))

    def waiting(self) -> bool:
        """Whether any task waits for an actor."""
        self._purge()
        return any(self._queues.values())

    def next(self, now: float) -> Copy | None:
        """The next copy to send, its actor taken; nothing where there is no work or nobody idle."""
        self._purge()
        parities = [(lane, False) for lane in self._queues if lane != OWN]
        for lane, strict in ((OWN, True), *parities, (OWN, False)):
            line = self._queues[lane]
            actor = self._roster.take(lane, line[0][1].tried, strict) if line else None
            if actor is not None:
                group, task = line.popleft()
                task.queued = False
                self._counts["resent"] += task.sends > 0
                return self._sent(group, task, actor, now)
        return self._hedge(now)

    def back(self, copy: Copy) -> None:
        """A copy came back in some way: its actor is idle again."""
        del self.copies[copy]
        copy.task.live -= 1
        self._roster.free(copy.actor)

    def hedge_s(self) -> float | None:
        """When the next copy is slow enough to be sent again; nothing where nobody could take it."""
        if self._hedge_after_s is None or self._queues[OWN] or not self._roster.idle(OWN):
            return None
        slow = (copy.sent_s + self._hedge_after_s for copy in self.copies if self._hedgeable(copy))
        return next(slow, None)

    def _purge(self) -> None:
        """Drop from the heads of the lines what is of no use any more."""
        for line in self._queues.values():
            while line and not line[0][0].serves(line[0][1]):
                line.popleft()[1].queued = False

    def _hedge(self, now: float) -> Copy | None:
        due_s = self.hedge_s()
        if due_s is None or now < due_s:
            return None
        slow = next(copy for copy in self.copies if self._hedgeable(copy))
        actor = self._roster.take(OWN, slow.task.tried, strict=False)
        assert actor is not None, "hedge_s has seen one that is idle"
        self._counts["hedged"] += 1
        return self._sent(slow.group, slow.task, actor, now)

    def _hedgeable(self, copy: Copy) -> bool:
        task = copy.task
        alone = task.live == 1 and not task.queued and not task.given_up
        return alone and task.lane == OWN and copy.group.waits_for(task)

    def _sent(self, group: Group, task: Task, actor: Hashable, now: float) -> Copy:
        task.live += 1
        task.sends += 1
        self.started.setdefault(group, now)
        copy = Copy(group, task, actor, now)
        self.copies[copy] = None
        self._counts["tasks"] += 1
        return copy
