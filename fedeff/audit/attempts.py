"""Attacks on views: each on each victim, in processes that are given no truth."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedeff.audit.finding import Attack, Budget, Finding
from fedeff.audit.processes import in_order
from fedeff.audit.tiers import Effort
from fedeff.audit.victims import Victim
from fedeff.audit.view import ServerView
from fedeff.core.rng import generator

__all__ = ["Case", "Found", "OnProgress", "Progress", "attacked", "case_of"]


@dataclass(frozen=True)
class Progress:
    """How far an audit is: `done` of `total` steps, and what goes on in a few words."""

    done: int
    total: int
    note: str


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Case:
    """A victim with the attacks that can be tried on it, and why others cannot, by name.

    `view` is what they are shown: the victim's, or one that tells more or less.
    """

    victim: Victim
    view: ServerView
    efforts: tuple[Effort, ...]
    skipped: Mapping[str, str]
    place: int  # among the cases: part of the key of all draws


@dataclass(frozen=True, eq=False)
class Found:
    """What an attack found, and whether its time was up when it did."""

    finding: Finding
    budget_spent: bool


def case_of(victim: Victim, efforts: Sequence[Effort], place: int, view: ServerView | None = None) -> Case:
    """The case of a victim; `view` None: its own."""
    shown = view or victim.captured.view
    obstacles = {one.attack: one.obstacle(shown) for one in efforts}
    return Case(
        victim,
        shown,
        tuple(one for one in efforts if obstacles[one.attack] is None),
        {name: why for name, why in obstacles.items() if why is not None},
        place,
    )


def attacked(
    cases: Sequence[Case], processes: int | None, on_progress: OnProgress | None = None
) -> list[tuple[Found, ...]]:
    """What each case's attacks found, the same for any number of processes."""
    tasks = [
        _Task(effort.made(), case.view, effort.seconds, case.victim.seed, case.place)
        for case in cases
        for effort in case.efforts
    ]
    found: list[Found] = []
    for one in in_order(_Task.run, tasks, processes):
        found.append(one)
        if on_progress is not None:
            on_progress(Progress(len(found), len(tasks), one.finding.attack))
    left = iter(found)
    return [tuple(next(left) for _ in case.efforts) for case in cases]


@dataclass(frozen=True, eq=False)
class _Task:
    """One attack on one view; its draws depend on the victim's seed and place and the attack's name alone."""

    attack: Attack
    view: ServerView
    seconds: float
    seed: int
    place: int

    def run(self) -> Found:
        rng = generator(self.seed, purpose=f"audit {self.attack.name}", client=self.place)
        budget = Budget(self.seconds)
        with warnings.catch_warnings():  # torch's, that something could be faster
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            finding = self.attack.run(self.view, budget, rng)
        return Found(finding, budget.spent)
