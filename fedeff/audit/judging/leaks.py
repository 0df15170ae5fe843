"""What counts as a leak: of one score by itself, and of an attack over all of its trials."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedeff.audit.judging.identify import chance_p_value
from fedeff.audit.judging.rates import chance_of, holm
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Score, Trial

__all__ = ["Pooled", "identified_by", "labels_told_by", "leaked", "leaking_rows", "sample_leaks"]


@dataclass(frozen=True)
class Pooled:
    """How often one attack hit over all trials, and how likely that is by chance, adjusted by Holm."""

    attack: str
    hits: int
    tested: int
    p_value: float


def sample_leaks(score: Score, rules: Rules) -> bool:
    """Whether a sample came too near: an image far above its floor, or tokens that nobody would guess."""
    return bool(leaking_rows(score, rules)) or (
        "tokens" in rules.fail_on and _more_than_guessed(score, rules)
    )


def leaking_rows(score: Score, rules: Rules) -> dict[int, tuple[float, float]]:
    """PSNR and gain over the floor, in dB, of the images that came too near, by their row."""
    if "images" not in rules.fail_on:
        return {}
    pairs = enumerate(zip(score.psnr_db, score.floor_psnr_db, strict=True))
    return {
        row: (psnr, psnr - floor)
        for row, (psnr, floor) in pairs
        if psnr is not None and psnr >= rules.psnr_db and psnr - floor >= rules.gain_db
    }


def _more_than_guessed(score: Score, rules: Rules) -> bool:
    """Enough exact tokens, and more than the floor's guess: what is guessed anyway is no leak."""
    return (
        score.tokens is not None and score.tokens >= rules.tokens and score.tokens > (score.floor_tokens or 0)
    )


def leaked(trial: Trial, rules: Rules) -> frozenset[str]:
    """The attacks to which this victim lost a sample."""
    return frozenset(one.attack for one in trial.attempts if sample_leaks(one.score, rules))


def identified_by(trials: Sequence[Trial], rules: Rules) -> list[Pooled]:
    """The attacks whose rebuilt rows point at the true ones more often than chance allows."""
    counts: dict[str, tuple[int, int, int]] = {}
    for score, attack in _scores(trials):
        if score.tested:
            hits, tested, decoys = counts.get(attack, (0, 0, score.decoys))
            counts[attack] = (hits + score.identified, tested + score.tested, min(decoys, score.decoys))
    chances = {attack: chance_p_value(*count) for attack, count in counts.items()}
    return _beyond_chance({attack: count[:2] for attack, count in counts.items()}, chances, rules.alpha)


def labels_told_by(trials: Sequence[Trial], rules: Rules) -> list[Pooled]:
    """The attacks that tell a batch's labels more often than a guess without the update would."""
    counts: dict[str, tuple[int, int]] = {}
    highest: dict[str, float] = {}
    for score, attack in _scores(trials):
        if score.labels_f1 is not None:
            hits, tested = counts.get(attack, (0, 0))
            counts[attack] = (hits + score.labels_told, tested + 1)
            highest[attack] = max(highest.get(attack, 0.0), score.labels_chance or 0.0)
    chances = {a: chance_of(hits, n, highest[a]) for a, (hits, n) in counts.items()}
    return _beyond_chance(counts, chances, rules.alpha)


def _scores(trials: Sequence[Trial]) -> list[tuple[Score, str]]:
    return [(attempt.score, attempt.attack) for trial in trials for attempt in trial.attempts]


def _beyond_chance(
    counts: dict[str, tuple[int, int]], chances: dict[str, float], alpha: float
) -> list[Pooled]:
    """Those whose adjusted p-value is at most alpha, the least likely by chance first."""
    adjusted = holm(chances)
    found = [Pooled(attack, *counts[attack], adjusted[attack]) for attack in counts]
    return sorted((one for one in found if one.p_value <= alpha), key=lambda one: one.p_value)
