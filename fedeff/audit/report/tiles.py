"""The headline numbers of an audit."""

from fedeff.audit.judging.leaks import identified_by, leaked
from fedeff.audit.report.summary import best_attempt
from fedeff.audit.result import AuditResult
from fedeff.report.page import Tile
from fedeff.report.units import human_bytes, percent

__all__ = ["rounds_said", "tiles_of"]


def tiles_of(result: AuditResult) -> tuple[Tile, ...]:
    """Eight of them: what was rebuilt, how often, how sure that is, and what protects."""
    verdict = result.verdict
    working = sum(bool(leaked(trial, result.rules)) for trial in result.controls)
    summed = result.clients_summed
    return (
        _best_tile(result),
        Tile("Trials that leaked", f"{verdict.leaks} of {verdict.trials}", _undecided(result)),
        _rate_tile(result),
        Tile(
            "Positive control",
            f"{working} of {len(result.controls)}" if result.controls else "none",
            "leaked without the defence",
        ),
        _identity_tile(result),
        Tile(
            "Sent by a client",
            human_bytes(max((trial.wire_bytes for trial in result.trials), default=0)),
            f"of which only the sum of {summed} is seen" if summed > 1 else f"in {rounds_said(result)}",
        ),
        Tile("Formal guarantee", _epsilon(result), result.guarantee.note),
        Tile("Threat", result.threat, f"{result.tier} tier"),
    )


def _best_tile(result: AuditResult) -> Tile:
    best = best_attempt(result.trials)
    if best is None:
        return Tile("Best rebuilt", "–", "nothing was rebuilt")
    if best.score.best_psnr_db is None:
        return Tile("Exact tokens", percent(best.score.tokens), f"floor {percent(best.score.floor_tokens)}")
    gain = best.score.best_gain_db or 0.0
    return Tile("Best rebuilt", f"{best.score.best_psnr_db:.1f} dB", f"{gain:+.1f} dB over the floor")


def _rate_tile(result: AuditResult) -> Tile:
    below, rules = result.verdict.leak_rate_below, result.rules
    note = f"at {100 * rules.confidence:g}% confidence; budget {100 * rules.budget:g}%"
    return Tile("Leak rate below", "–" if below >= 1.0 else percent(below), note)


def _undecided(result: AuditResult) -> str:
    return f"{result.verdict.undecided} undecided" if result.verdict.undecided else "all decided"


def _identity_tile(result: AuditResult) -> Tile:
    scores = [one.score for trial in result.trials for one in trial.attempts if one.score.tested]
    if not scores:
        return Tile("Identified", "–", "nothing to compare")
    beyond = identified_by(result.trials, result.rules)
    if beyond:
        value = f"{beyond[0].hits} of {beyond[0].tested}"
        return Tile("Identified", value, f"{beyond[0].attack}, p = {beyond[0].p_value:.1e}")
    return Tile("Identified", "no more than by chance", f"among {min(s.decoys for s in scores)} decoys")


def _epsilon(result: AuditResult) -> str:
    epsilon = result.guarantee.epsilon
    return "none" if epsilon is None else f"ε = {epsilon:.3g}"


def rounds_said(result: AuditResult) -> str:
    """How many rounds were seen, in words."""
    return "one round" if result.exchanges == 1 else f"{result.exchanges} rounds"
