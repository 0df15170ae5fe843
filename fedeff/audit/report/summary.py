"""What the trials of one attack come to: one row of the table of attacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fedeff.audit.judging.leaks import sample_leaks
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Attempt, Trial

__all__ = ["AttackSummary", "attacks_in", "best_attempt", "floor_db_of", "summary_of"]


@dataclass(frozen=True)
class AttackSummary:
    """One attack over the trials in which it was tried; None where it gives no such number.

    Numbers of images are of each trial's best row: the best over trials, and the median.
    """

    attack: str
    tried: int
    leaks: int
    best_db: float | None
    median_db: float | None
    gain_db: float | None
    ssim: float | None
    tokens: float | None
    identified: int
    tested: int
    labels_f1: float | None
    seconds: float
    unfinished: int  # ended by their budget, or stuck


def attacks_in(trials: Sequence[Trial]) -> list[str]:
    """Names of the attacks that were tried, in order of their first appearance."""
    return list(dict.fromkeys(one.attack for trial in trials for one in trial.attempts))


def summary_of(attack: str, trials: Sequence[Trial], rules: Rules) -> AttackSummary | None:
    """The attack over these trials; None where it was never tried."""
    attempts = [one for trial in trials for one in trial.attempts if one.attack == attack]
    if not attempts:
        return None
    scores = [one.score for one in attempts]
    psnr = [score.best_psnr_db for score in scores if score.best_psnr_db is not None]
    gains = [score.best_gain_db for score in scores if score.best_gain_db is not None]
    return AttackSummary(
        attack=attack,
        tried=len(attempts),
        leaks=sum(sample_leaks(score, rules) for score in scores),
        best_db=max(psnr, default=None),
        median_db=median(psnr) if psnr else None,
        gain_db=max(gains, default=None),
        ssim=max((one for score in scores for one in score.ssim if one is not None), default=None),
        tokens=max((score.tokens for score in scores if score.tokens is not None), default=None),
        identified=sum(score.identified for score in scores),
        tested=sum(score.tested for score in scores),
        labels_f1=_mean([score.labels_f1 for score in scores if score.labels_f1 is not None]),
        seconds=median(one.seconds for one in attempts),
        unfinished=sum(one.ended != "converged" for one in attempts),
    )


def best_attempt(trials: Sequence[Trial]) -> Attempt | None:
    """The attempt that gained most over its floor; of texts the one with most exact tokens."""
    attempts = [one for trial in trials for one in trial.attempts]
    told = [one for one in attempts if one.score.best_gain_db is not None or one.score.tokens is not None]
    return max(told, key=_worth, default=None)


def _worth(attempt: Attempt) -> tuple[float, float]:
    gain, tokens = attempt.score.best_gain_db, attempt.score.tokens
    return (-1e9 if gain is None else gain, tokens or 0.0)


def floor_db_of(trials: Sequence[Trial]) -> float | None:
    """The median floor of all rows; None where nothing is judged by PSNR."""
    floors = [one for trial in trials for attempt in trial.attempts for one in attempt.score.floor_psnr_db]
    return median(floors) if floors else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
