"""What a configuration is often believed to protect by, and what this audit says of it."""

from collections.abc import Iterator

from fedeff.app.settings import Settings
from fedeff.audit.judging.verdict import Outcome, Verdict
from fedeff.audit.result import Claim

__all__ = ["beliefs_of"]

_HOLDS: dict[Outcome, bool | None] = {"FAIL": False, "PASS": True, "INCONCLUSIVE": None}


def beliefs_of(settings: Settings, verdict: Verdict) -> tuple[Claim, ...]:
    """The beliefs that the settings may rest on: refuted by a FAIL, borne out by a PASS, else open."""
    holds = _HOLDS[verdict.outcome]
    return tuple(Claim(claim, holds, verdict.sentence, source) for claim, source in _beliefs(settings))


def _beliefs(settings: Settings) -> Iterator[tuple[str, str]]:
    codec = settings.codec.replace("-", "_")
    if "top_k" in codec or "random_k" in codec:
        yield (
            "leaving out most of an update protects",
            "said of pruning in arXiv:1906.08935; an attacker sees what was left out, and matches the rest",
        )
    elif codec:
        yield "coding updates coarsely protects", "arXiv:2111.04706 refutes several such defences"
    if settings.batch_size > 1:
        yield "batches of several rows protect", "refuted for up to 25 rows by arXiv:2403.03945"
    if settings.secure_aggregation != "none":
        yield (
            "sums of several clients protect",
            "refuted for a server that crafts the model by arXiv:2110.13057 and arXiv:2306.03013",
        )
    if settings.noise_multiplier:
        yield (
            "noise that the server adds protects from the server",
            "it clips and adds noise after it has seen the updates",
        )
