"""An audit by one call: what most callers need, loaded without what an audit runs on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedeff.app.settings import Settings
    from fedeff.audit.attempts import OnProgress
    from fedeff.audit.result import AuditResult
    from fedeff.audit.target import Value

__all__ = ["audit_leak"]


def audit_leak(
    target: "Settings | Path | str | None" = None,
    *,
    tier: str = "quick",
    threat: str = "curious",
    attacks: Sequence[str] = (),
    fail_on: Sequence[str] = ("images", "tokens"),
    budget: float = 0.05,
    clients: int | None = None,
    trials: int | None = None,
    rounds: int = 1,
    overrides: "Mapping[str, Value] | None" = None,
    processes: int | None = None,
    on_progress: "OnProgress | None" = None,
) -> "AuditResult":
    """What can be rebuilt from exactly what clients send under a configuration; nothing is written.

    `target` are settings, the folder of a run (audited with the weights that it came to) or of the
    built-in app. `budget` is the leak rate that a PASS excludes; `attacks` names those to try in place of
    the tier's. A victim is all that one client sends in `rounds` rounds. The result is that of the seed, for
    any number of processes.

    >>> from fedeff.app import Settings
    >>> result = audit_leak(Settings(dataset="digits", batch_size=1, local_steps=1))  # doctest: +SKIP
    >>> result.verdict.outcome  # doctest: +SKIP
    'FAIL'

    Raises:
        ConfigError, DataError: for an unknown name or settings that cannot be.
        AuditError: where there is nothing to attack, or no attack applies.
    """
    from fedeff.audit.audit import run_audit
    from fedeff.audit.judging.rules import Rules
    from fedeff.audit.plan import plan_of

    plan = plan_of(
        target,
        tier=tier,
        threat=threat,
        rules=Rules(fail_on=tuple(fail_on), budget=budget),
        attacks=attacks,
        clients=clients,
        trials=trials,
        rounds=rounds,
        overrides=overrides,
    )
    return run_audit(plan, processes=processes, on_progress=on_progress)
