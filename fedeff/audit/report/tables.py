"""The tables of an audit's page, which its Markdown repeats."""

import math

from fedeff.audit.report.summary import AttackSummary, attacks_in, summary_of
from fedeff.audit.report.words import THREATS
from fedeff.audit.result import AuditResult
from fedeff.report.page import Table
from fedeff.report.units import human_seconds, percent

__all__ = [
    "attacks_table",
    "claims_table",
    "configuration_table",
    "outcomes_table",
    "provenance_table",
    "seen_table",
    "skipped_table",
    "threat_table",
]


def outcomes_table(result: AuditResult) -> Table:
    """Of each attack in how many trials it leaked, and its best: as configured, at worst, undefended."""
    groups = {"as configured": result.trials, "worst case": result.worst_case, "control": result.controls}
    shown = {name: trials for name, trials in groups.items() if trials or name != "worst case"}
    rows = tuple(
        (attack, *(_outcome(summary_of(attack, trials, result.rules)) for trials in shown.values()))
        for attack in attacks_in((*result.trials, *result.worst_case, *result.controls))
    )
    return Table(("Leaked, and the best", *shown), rows)


def _outcome(summary: AttackSummary | None) -> str:
    if summary is None:
        return "–"
    worth = _db(summary.best_db) if summary.tokens is None else percent(summary.tokens)
    return f"{summary.leaks} of {summary.tried}" + ("" if worth == "–" else f" · {worth}")


def attacks_table(result: AuditResult) -> Table:
    """What each attack came to on what clients send, in numbers."""
    found = [summary_of(attack, result.trials, result.rules) for attack in attacks_in(result.trials)]
    own = [summary for summary in found if summary is not None]
    text = any(summary.tokens is not None for summary in own)
    header = (
        "Attack",
        *(("exact tokens",) if text else ("best", "median", "over floor", "SSIM")),
        "identified",
        "labels (F1)",
        "unfinished",
        "seconds",
    )
    return Table(header, tuple(_attack_row(summary, text) for summary in own))


def _attack_row(own: AttackSummary, text: bool) -> tuple[str, ...]:
    images = (_db(own.best_db), _db(own.median_db), _signed_db(own.gain_db), _plain(own.ssim))
    return (
        own.attack,
        *((percent(own.tokens),) if text else images),
        f"{own.identified} of {own.tested}" if own.tested else "–",
        percent(own.labels_f1),
        f"{own.unfinished} of {own.tried}" if own.unfinished else "–",
        human_seconds(own.seconds),
    )


def skipped_table(result: AuditResult) -> Table | None:
    """Attacks that could not be tried on a victim, and why; None where all could."""
    why = {name: reason for trial in result.trials for name, reason in trial.skipped.items()}
    return Table(("Attack", "because"), tuple(sorted(why.items())), numbers=False) if why else None


def seen_table(result: AuditResult) -> Table:
    """Each array as it came: its shape, how much of it is known, and how exactly."""
    rows = tuple(
        (
            one.name,
            " × ".join(map(str, one.shape)) or "1",
            f"{math.prod(one.shape):,}",
            percent(one.known_share),
            "–" if not one.known_share else f"± {one.error_std:.2g}" if one.error_std else "exact",
        )
        for one in result.seen
    )
    header = ("Array", "shape", "entries", "known", "error (std)")
    return Table(header, rows, fold=f"All {len(rows)} arrays" if len(rows) > 16 else "")


def threat_table(result: AuditResult) -> Table:
    """The attackers that an audit can assume; the one of this audit is marked."""
    rows = tuple(
        (name + (" (this audit)" if name == result.threat else ""), words.who, words.knows, words.does)
        for name, words in THREATS.items()
    )
    return Table(("Threat", "who", "knows", "does"), rows, numbers=False)


def claims_table(result: AuditResult) -> Table:
    """What is often said to protect, and whether it did here."""
    said = {True: "held here", False: "refuted here", None: "not tried here"}
    rows = tuple((one.claim, said[one.holds], one.why, one.source) for one in result.claims)
    return Table(("Claim", "verdict", "why", "source"), rows, numbers=False)


def configuration_table(result: AuditResult) -> Table:
    """Every setting of the audited configuration."""
    rows = tuple((name, _setting(value)) for name, value in result.configuration.items())
    return Table((), rows, numbers=False, title="Audited configuration", fold=f"All {len(rows)} settings")


def provenance_table(result: AuditResult) -> Table:
    """When, from which seeds, with which versions and options."""
    made = result.provenance
    rows = [
        ("configuration, SHA-256", result.configuration_sha256),
        ("started", made.started_at),
        ("took", human_seconds(made.seconds)),
        ("tier", result.tier),
        ("seeds", ", ".join(map(str, made.seeds))),
        ("schema", result.schema),
        ("samples", "withheld" if result.is_redacted else "shown"),
        *sorted(made.versions.items()),
    ]
    options = [
        (name, ", ".join(f"{key} = {_setting(value)}" for key, value in sorted(chosen.items())) or "defaults")
        for name, chosen in made.attacks.items()
    ]
    return Table((), (*rows, *options), numbers=False, title="Provenance")


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value == "" else str(value)


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _signed_db(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} dB"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
