"""Cases attacked and held against the truth: what a verdict is made of, and what its report shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedeff.audit.attempts import Case, Found, OnProgress, attacked
from fedeff.audit.cases import Cases
from fedeff.audit.judging.judge import PublicRows, trials_of, with_samples
from fedeff.audit.judging.trial import Trial
from fedeff.audit.result import SeenArray
from fedeff.audit.view import NDArray, ServerView

__all__ = ["Judged", "judged_cases", "seen_of"]


@dataclass(frozen=True)
class Judged:
    """The trials of each kind of case; the first of the victims', and the nearest, have samples."""

    trials: tuple[Trial, ...]
    controls: tuple[Trial, ...]
    worst_case: tuple[Trial, ...]


def judged_cases(cases: Cases, public: PublicRows, processes: int | None, tell: OnProgress) -> Judged:
    """What came of all attacks on all cases; they are worked on together."""
    groups = (cases.controls, cases.trials, cases.worst_case)
    found = _found(groups, processes, tell)
    controls, trials, worst = (
        trials_of(group, each, public) for group, each in zip(groups, found, strict=True)
    )
    return Judged(_pictured(trials, cases, found, public), controls, worst)


def seen_of(view: ServerView) -> tuple[SeenArray, ...]:
    """What the server saw of each array in the first exchange."""
    return tuple(
        SeenArray(
            name,
            tuple(told.values.shape),
            float(told.mask.mean()) if told.values.size else 0.0,
            _root_mean_square(np.broadcast_to(told.std, told.values.shape)[told.mask]),
        )
        for name, told in view.first.told.items()
    )


def _root_mean_square(values: NDArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _found(
    groups: Sequence[Sequence[Case]], processes: int | None, tell: OnProgress
) -> list[list[tuple[Found, ...]]]:
    """What the attacks found, group by group; all are worked on together."""
    found = iter(attacked([case for group in groups for case in group], processes, tell))
    return [[next(found) for _ in group] for group in groups]


def _pictured(
    trials: Sequence[Trial], cases: Cases, found: Sequence[Sequence[tuple[Found, ...]]], public: PublicRows
) -> tuple[Trial, ...]:
    """The trials; those that have a control, and the one that came nearest, with samples."""
    beside, own = found[0], found[1]
    shown = {*range(max(1, len(beside))), max(range(len(trials)), key=lambda place: _worth(trials[place]))}
    return tuple(
        with_samples(trial, case, each, public, beside[place] if place < len(beside) else ())
        if place in shown
        else trial
        for place, (trial, case, each) in enumerate(zip(trials, cases.trials, own, strict=True))
    )


def _worth(trial: Trial) -> tuple[float, float]:
    """The largest gain of a trial's attacks over the floor; of texts the most exact tokens."""
    scores = [one.score for one in trial.attempts]
    gains = [one.best_gain_db for one in scores if one.best_gain_db is not None]
    return max(gains, default=0.0), max((one.tokens or 0.0 for one in scores), default=0.0)
