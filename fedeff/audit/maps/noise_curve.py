"""What noise on an update buys: attacks on a view with more and more of it, beside lower bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod

import numpy as np

from fedeff.audit.attempts import Case, case_of
from fedeff.audit.judging.judge import PublicRows
from fedeff.audit.judging.trial import Trial
from fedeff.audit.replay.bounds import cramer_rao, information, psnr_of, van_trees
from fedeff.audit.result import NoisePoint
from fedeff.audit.tiers import Effort
from fedeff.audit.victims import Victim
from fedeff.audit.view import Exchange, NDArray, ServerView
from fedeff.core.rng import generator

__all__ = ["Level", "noise_cases", "noise_levels", "noise_points"]

_STEPS = tuple(float(f"{digit}e{power}") for power in range(-9, 3) for digit in (1, 3))
_BEST_DB = 60.0  # noise that leaves more than that is none
_GUESS_DB = 0.5  # above what is known of inputs beforehand: with less, more noise changes nothing
_MOST_UNKNOWNS = 1024  # whose information matrix is made and taken apart in seconds
_MOST_NUMBERS = 50_000_000  # of the Jacobian: 400 MB


@dataclass(frozen=True)
class Level:
    """A standard deviation of noise on each value, and the PSNR that no attacker exceeds there, in dB.

    `unbiased_db` is of those without a prior, None where some direction of the inputs is not told at all.
    """

    std: float
    unbiased_db: float | None
    prior_db: float


def noise_levels(victim: Victim, public: PublicRows) -> tuple[Level, ...]:
    """The levels between "nothing is lost" and "nothing is left", by the bounds at the victim's own rows.

    For an auditor, who has the truth. The prior is Gaussian with the mean variance of the public rows'
    entries. Empty where the bounds would take too long: many unknowns, or a large model.
    """
    captured = victim.captured
    view, truth = captured.view, captured.truth
    unknowns = len(truth) * prod(view.public.input_shape)
    known = sum(int(one.mask.sum()) for one in view.first.told.values())
    if unknowns > _MOST_UNKNOWNS or unknowns * known > _MOST_NUMBERS:
        return ()
    gram = _diagonal(information(view, truth.inputs, truth.labels))
    span = view.public.highest - view.public.lowest
    variance = float(np.mean(np.var(public.inputs, axis=0)))
    guess_db = psnr_of(variance, span) + _GUESS_DB
    levels = [_level(gram, std, variance, span) for std in _STEPS]
    return tuple(one for one in levels if guess_db <= one.prior_db <= _BEST_DB)


def noise_cases(victim: Victim, levels: Sequence[Level], efforts: Sequence[Effort]) -> list[Case]:
    """A case a level: the victim's view with noise that is on record, the same draws times its deviation."""
    view = victim.captured.view
    return [case_of(victim, efforts, 0, _with_noise(view, level.std, victim.seed)) for level in levels]


def noise_points(levels: Sequence[Level], trials: Sequence[Trial]) -> tuple[NoisePoint, ...]:
    """The best attack of each level beside its bounds."""
    return tuple(
        NoisePoint(level.std, _best_db(trial), level.unbiased_db, level.prior_db)
        for level, trial in zip(levels, trials, strict=True)
    )


def _level(gram: NDArray, std: float, variance: float, span: float) -> Level:
    unbiased_db = psnr_of(cramer_rao(gram, std), span)
    return Level(
        std,
        unbiased_db if isfinite(unbiased_db) else None,
        psnr_of(van_trees(gram, std, variance), span),
    )


def _diagonal(gram: NDArray) -> NDArray:
    """The same bounds' matrix in its own axes, whose eigenvalues are found at once."""
    return np.diag(np.maximum(np.linalg.eigvalsh(gram), 0.0))


def _best_db(trial: Trial) -> float | None:
    found = [one.score.best_psnr_db for one in trial.attempts if one.score.best_psnr_db is not None]
    return max(found, default=None)


def _with_noise(view: ServerView, std: float, seed: int) -> ServerView:
    rng = generator(seed, purpose="audit noise curve")
    return replace(view, exchanges=tuple(_noisy(one, std, rng) for one in view.exchanges))


def _noisy(exchange: Exchange, std: float, rng: np.random.Generator) -> Exchange:
    told = {
        key: replace(one, values=one.values + std * rng.standard_normal(one.values.shape), std=std)
        for key, one in exchange.told.items()
    }
    return replace(exchange, told=told)
