"""From findings to trials: each is held against the truth, a floor and decoys."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of, resolved
from fedeff.audit.attempts import Case, Found
from fedeff.audit.finding import Finding
from fedeff.audit.judging.score import Reference, attempt_of, reference_for, samples_of, score
from fedeff.audit.judging.trial import Attempt, Samples, Trial
from fedeff.audit.view import NDArray
from fedeff.core.rng import generator

__all__ = ["PublicRows", "public_rows", "trials_of", "with_samples"]

_ROWS = 2000  # enough for 100 decoys of each of ten labels


@dataclass(frozen=True, eq=False)
class PublicRows:
    """Rows like the victims': what guesses and decoys are drawn from."""

    inputs: NDArray
    labels: NDArray


def public_rows(settings: Settings) -> PublicRows:
    """At most 2,000 rows of the settings' data, drawn by their seed: test rows and any client's.

    A victim's own are among them, and left out where it is judged (`reference_for`).
    """
    dataset = dataset_of(resolved(settings)[0])
    test = len(dataset.test)
    rng = generator(settings.seed, purpose="audit public rows")
    chosen = np.sort(rng.permutation(test + len(dataset.train))[:_ROWS])
    parts = (
        dataset.test.batch(chosen[chosen < test]),
        dataset.train.batch(chosen[chosen >= test] - test),
    )
    inputs, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    return PublicRows(inputs, labels)


def trials_of(
    cases: Sequence[Case], found: Sequence[tuple[Found, ...]], public: PublicRows
) -> tuple[Trial, ...]:
    """A trial for each case, with the score of each finding, without samples."""
    return tuple(_trial(case, each, public) for case, each in zip(cases, found, strict=True))


def with_samples(
    trial: Trial, case: Case, found: Sequence[Found], public: PublicRows, control: Sequence[Found] = ()
) -> Trial:
    """The trial with pictures of the finding that came nearest, beside the same attack's on the control.

    `control` are the findings on the same client's first row, undefended.
    """
    best = _nearest(trial.attempts)
    if best is None:
        return trial
    samples = _samples(case, found[best].finding, public, control)
    return replace(trial, samples=samples)


def _samples(case: Case, finding: Finding, public: PublicRows, control: Sequence[Found]) -> Samples | None:
    same = [one.finding for one in control if one.finding.attack == finding.attack]
    truth, view = case.victim.captured.truth, case.view
    floor = _reference(case, public).floor
    return samples_of(truth, view.public, floor, finding, same[0] if same else None)


def _trial(case: Case, found: Sequence[Found], public: PublicRows) -> Trial:
    captured, reference = case.victim.captured, _reference(case, public)
    attempts = tuple(
        attempt_of(
            one.finding,
            score(one.finding, captured.truth, case.view.public, reference),
            one.budget_spent,
        )
        for one in found
    )
    partition = captured.partition
    return Trial(
        partition=(partition,) if isinstance(partition, int) else partition,
        seed=case.victim.seed,
        rows=len(captured.truth),
        wire_bytes=captured.wire_bytes,
        attempts=attempts,
        skipped=dict(case.skipped),
    )


def _reference(case: Case, public: PublicRows) -> Reference:
    rng = generator(case.victim.seed, purpose="audit reference", client=case.place)
    return reference_for(case.victim.captured.truth, public.inputs, public.labels, rng)


def _nearest(attempts: Sequence[Attempt]) -> int | None:
    """The place of the attempt that rebuilt most: by gain over the floor, or by tokens."""

    def worth(attempt: Attempt) -> float:
        worths = (attempt.score.best_gain_db, attempt.score.tokens)
        return next((one for one in worths if one is not None), -math.inf)

    places = [place for place, one in enumerate(attempts) if worth(one) > -math.inf]
    return max(places, key=lambda place: worth(attempts[place]), default=None)
