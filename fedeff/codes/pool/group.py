"""One group under a code: its tasks, what came of them, and what can be decoded from that."""

from collections import Counter
from collections.abc import Callable, Hashable

import numpy as np

from fedeff.codes.code import Code, Decoded, NDArray
from fedeff.codes.pool.arrays import is_finite, like, stacked
from fedeff.codes.pool.items import OWN, Item, Known, Task

__all__ = ["Group"]


class Group:
    """`k` inputs, the last of which may be pads, and the tasks that they became.

    Pads repeat an input whose answer is known, or else the group's own items; nobody computes them.
    Answers count once the group's shape is known: from groups of the same kind before, or when two workers
    agree on it, so that one worker that answers nonsense first cannot make erasures of the others.
    """

    def __init__(self, code: Code, kind: Hashable, items: list[Item], known: Known | None) -> None:
        self.code, self.kind, self.items = code, kind, items
        self.shape = known.answer.shape if known else None
        self._pad = known if code.systematic else None
        self._whole_numbers = bool(getattr(code, "whole_numbers", False))
        self.tasks: dict[int, Task] = {}  # by worker
        self.overdue = False
        self.refused = False  # whether an estimate was below the quality asked for

    def encode(self, parity_lane: Callable[[int], int]) -> list[Task]:
        """The group's tasks, new; that of parity `i` is for actors of `parity_lane(i)`.

        Raises:
            CodeError: if the code does not take these inputs.
        """
        first, code = self.items[0], self.code
        pads = range(len(self.items), code.k)
        inputs = [item.array for item in self.items]
        inputs += [self._pad.input if self._pad else self._repeated(pad).array for pad in pads]
        coded = code.encode(stacked(inputs, self._whole_numbers))
        made = []
        if code.systematic:
            made = [Task(worker, item.fn, item.value, OWN) for worker, item in enumerate(self.items)]
        start = code.k if code.systematic else 0
        for i, value in enumerate(coded):
            lane = parity_lane(i) if code.systematic else OWN
            made.append(Task(start + i, first.fn, like(value, first.value), lane))
        self.tasks = {task.worker: task for task in made}
        return made

    def _repeated(self, pad: int) -> Item:
        return self.items[pad % len(self.items)]

    @property
    def unsettled(self) -> list[Item]:
        """Items without an outcome, of those that anybody still waits for."""
        return [item for item in self.items if item.outcome is None and not item.abandoned]

    def own(self, item: Item) -> Task | None:
        """The task that computes the item itself; there is none where every task is coded."""
        return self.tasks[self.items.index(item)] if self.code.systematic else None

    def serves(self, task: Task) -> bool:
        """Whether an answer to the task is still of use."""
        return task.array is None and bool(self.unsettled)

    def waits_for(self, task: Task) -> bool:
        """Whether an item has no outcome for want of this task: its own, or any where all are coded."""
        if not self.serves(task) or not self.code.systematic:
            return self.serves(task)
        item = self.items[task.worker] if task.worker < len(self.items) else None
        return item is not None and item.outcome is None and not item.abandoned

    def agree(self, force: bool) -> list[Task]:
        """Settles on a shape if it can; the tasks whose answers have another.

        With `force` the most common shape is taken, the first workers' where there is a tie.
        """
        shapes = {task: task.array.shape for task in self.tasks.values() if task.array is not None}
        if self.shape is None and shapes:
            shape, votes = Counter(shapes.values()).most_common(1)[0]
            if votes > 1 or force or len(self.tasks) == 1:
                self.shape = shape
        return [task for task, shape in shapes.items() if self.shape not in (None, shape)]

    def came(self, task: Task) -> bool:
        """Whether the task's answer is there and may be used."""
        return task.array is not None and self.shape is not None

    def mask(self, there: Callable[[Task], bool]) -> NDArray:
        """Workers whose output is there, `(k + r,)` booleans, pads included."""
        mask = np.zeros(self.code.k + self.code.r, dtype=np.bool_)
        mask[[worker for worker, task in self.tasks.items() if there(task)]] = True
        if self.code.systematic:
            for pad in range(len(self.items), self.code.k):
                mask[pad] = self._pad is not None or mask[pad % len(self.items)]
        return mask

    def enough(self, mask: NDArray) -> bool:
        """Whether to decode from these before the deadline: at least `k`, as an exact code would need.

        Codes without a threshold could decode from fewer, and badly.
        """
        return int(mask.sum()) >= self.code.k and self.code.decodable(mask)

    def decode(self) -> Decoded | None:
        """Answers to all inputs from the outputs that came; nothing where these are too few."""
        mask = self.mask(self.came)
        if not mask.any() or not self.code.decodable(mask):
            return None
        outputs = {worker: self._output(worker) for worker in np.flatnonzero(mask).tolist()}
        filled = stacked(list(outputs.values()), self._whole_numbers)
        whole = np.zeros((len(mask), *filled.shape[1:]), filled.dtype)
        whole[mask] = filled
        return self.code.decode(whole, mask)

    def _output(self, worker: int) -> NDArray:
        if worker not in self.tasks:
            if self._pad:
                return self._pad.answer
            worker = worker % len(self.items)
        array = self.tasks[worker].array
        assert array is not None
        return array

    def estimate(self, decoded: Decoded, item: Item) -> object | None:
        """The decoded answer to an item, a tensor where workers give such; nothing where it is not finite."""
        array = decoded.values[self.items.index(item)]
        if not is_finite(np.asarray(array)):
            return None
        return like(array, next(task.answer for task in self.tasks.values() if task.array is not None))

    def known(self) -> Known | None:
        """An input of this group and its answer, where a worker gave one."""
        if not self.code.systematic:
            answers = [task.array for task in self.tasks.values() if self.came(task)]
            return Known(self.items[0].array, answers[0]) if answers and answers[0] is not None else None
        for item, task in zip(self.items, self.tasks.values(), strict=False):
            if self.came(task) and task.array is not None:
                return Known(item.array, task.array)
        return None
