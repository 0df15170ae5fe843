"""What is submitted, the tasks it becomes, and the copies of those at actors."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from fedeff.codes.code import NDArray
from fedeff.codes.pool.arrays import Call
from fedeff.codes.pool.results import Coded

__all__ = ["OWN", "Item", "Known", "Task"]

OWN = (
    -1
)  # the lane of tasks for actors that hold the function itself; those that hold parity models: 0, 1, ...
_BAD_ANSWERS = 2  # of one task, after which it is given up: another actor said no better


@dataclass(eq=False)
class Item:
    """What was submitted, and its outcome once there is one."""

    index: int
    fn: Call
    value: object
    array: NDArray
    submitted_s: float
    outcome: Coded | Exception | None = None  # an exception is raised to who asks for the item
    abandoned: bool = False


@dataclass(eq=False)
class Task:
    """One worker's share of a group. It may be at actors in several copies, or wait in a queue."""

    worker: int
    fn: Call
    value: object
    lane: int
    live: int = 0  # copies at actors
    queued: bool = False
    sends: int = 0  # copies that went out
    answer: object = None
    array: NDArray | None = None  # the answer, once it came
    bad: int = 0
    error: Exception | None = None  # of the function
    tried: set[Hashable] = field(
        default_factory=set
    )  # actors that answered, of use where the answer was refused

    @property
    def given_up(self) -> bool:
        """Whether sending it again would bring nothing."""
        return self.error is not None or self.bad >= _BAD_ANSWERS

    @property
    def lost(self) -> bool:
        """Whether no answer came or will come, but one would if it were sent again."""
        return self.array is None and not (self.live or self.queued or self.given_up)

    def refuse(self) -> None:
        """Count an answer as an erasure."""
        self.answer, self.array = None, None
        self.bad += 1


@dataclass(frozen=True, eq=False)
class Known:
    """An input whose answer is known: short groups of its kind are padded with it, which costs no task."""

    input: NDArray
    answer: NDArray
