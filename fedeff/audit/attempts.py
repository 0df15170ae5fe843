"""Attacks on views: each on each victim, in processes that are given no truth."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedeff.audit.finding import Attack, Budget, Finding
from fedeff.audit.processes import in_order
from fedeff.audit.tiers import Effort
from fedeff.audit.union import joined, shown_to
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
    """The case of a victim; `view` None: its own. An attack fits where it can be tried on any round."""
    shown = view or victim.captured.view
    obstacles = {one.attack: one.obstacle(shown) for one in efforts}
    if len(shown.exchanges) > 1:  # some single round may do
        some = {one.attack for one in efforts if shown_to(shown, one.obstacle)}
        obstacles = {name: None if name in some else why for name, why in obstacles.items()}
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
    tasks = [[_tasks(case, effort) for effort in case.efforts] for case in cases]
    flat = [task for case in tasks for each in case for task in each]
    found: list[Found] = []
    for one in in_order(_Task.run, flat, processes):
        found.append(one)
        if on_progress is not None:
            on_progress(Progress(len(found), len(flat), one.finding.attack))
    left = iter(found)
    return [tuple(_of_all_rounds([next(left) for _ in each]) for each in case) for case in tasks]


def _tasks(case: Case, effort: Effort) -> "list[_Task]":
    """The attack on all rounds at once, or on each; its seconds are for one round."""
    one_round = len(case.view.exchanges) == 1
    views = (case.view,) if one_round else shown_to(case.view, effort.obstacle)
    seed, place = case.victim.seed, case.place
    return [
        _Task(effort.made(), view, effort.seconds * len(view.exchanges), seed, place, part)
        for part, view in enumerate(views)
    ]


def _of_all_rounds(found: Sequence[Found]) -> Found:
    return Found(joined([one.finding for one in found]), any(one.budget_spent for one in found))


@dataclass(frozen=True, eq=False)
class _Task:
    """One attack on one view; its draws depend on the victim's seed and place, the attack's name and `part`.

    `part` counts the views of a victim that the attack is tried on.
    """

    attack: Attack
    view: ServerView
    seconds: float
    seed: int
    place: int
    part: int

    def run(self) -> Found:
        rng = generator(self.seed, purpose=f"audit {self.attack.name}", round=self.part, client=self.place)
        budget = Budget(self.seconds)
        with warnings.catch_warnings():  # torch's, that something could be faster
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            finding = self.attack.run(self.view, budget, rng)
        return Found(finding, budget.spent)
