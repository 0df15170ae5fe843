"""Epochs of delayed averaging: a client's unbroken row of periods, and what each message must bring it."""

from dataclasses import dataclass, field

__all__ = ["Epoch", "Task"]


@dataclass(frozen=True)
class Task:
    """One client's work in one period, and what its message must bring it."""

    period: int  # the round that sends it
    cycle: int  # the client's epoch, as `Epoch` names it
    index: int  # of the period in the epoch
    since: int | None  # the round of the epoch's last message; None: this is the first
    corrects: tuple[int, ...]  # indices of own periods whose means this message brings


@dataclass
class Epoch:
    """A client's unbroken row of periods since it had the whole model."""

    cycle: int  # the `cycle_name` of the start and of the round that began it
    index: int = -1  # of its last period
    period: int = 0  # the round that sent it
    uncorrected: dict[int, int] = field(default_factory=dict)  # rounds by index: means it has not had

    def next_task(self, period: int, horizon: int) -> Task:
        """The next period's task; means up to that of the round `horizon` are there to be sent.

        >>> epoch = Epoch(cycle=4)
        >>> epoch.next_task(4, horizon=2)
        Task(period=4, cycle=4, index=0, since=None, corrects=())
        >>> epoch.next_task(6, horizon=4)
        Task(period=6, cycle=4, index=1, since=4, corrects=(0,))
        """
        corrects = tuple(index for index, of in self.uncorrected.items() if of <= horizon)
        for index in corrects:
            del self.uncorrected[index]
        since = None if self.index < 0 else self.period
        self.index, self.period = self.index + 1, period
        self.uncorrected[self.index] = period
        return Task(period, self.cycle, self.index, since, corrects)
