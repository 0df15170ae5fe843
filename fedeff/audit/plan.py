"""What an audit is to do, checked before anything is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fedeff.app.run import Plan
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.audit.judging.rules import Rules
from fedeff.audit.result import Threat
from fedeff.audit.target import Target, Value, target_of
from fedeff.audit.tiers import Effort, Tier, efforts_of, tier_of
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["THREATS", "AuditPlan", "plan_of"]

THREATS = ("curious", "informed", "malicious")


@dataclass(frozen=True)
class AuditPlan:
    """A target with every "auto" decided, the threat, the rules of the verdict, and what is tried.

    `trials` None: as many as the tier has for updates of the size that they turn out to be. A victim is what
    one client sends in so many `rounds`.
    """

    target: Target
    threat: Threat
    tier: Tier
    rules: Rules
    efforts: tuple[Effort, ...]
    trials: int | None = None
    notices: tuple[str, ...] = ()
    rounds: int = 1


def plan_of(
    target: Settings | Path | str | None,
    *,
    tier: str,
    threat: str,
    rules: Rules,
    attacks: Sequence[str] = (),
    clients: int | None = None,
    trials: int | None = None,
    rounds: int = 1,
    overrides: Mapping[str, Value] | None = None,
) -> AuditPlan:
    """The plan, or what is wrong with it, in one line.

    Raises:
        ConfigError, DataError, AuditError: for what cannot be audited, and for unknown names.
    """
    if threat not in THREATS:
        raise unknown_name("threat", threat, THREATS)
    if trials is not None and trials < 1:
        raise ConfigError(f"trials = {trials}; expected at least 1")
    chosen, against = tier_of(tier), cast(Threat, threat)
    found = target_of(target, clients=clients, overrides=overrides)
    checked, notices = Plan(found.settings, Runtime(clients=found.clients, engine="inline")).checked()
    _check_rounds(rounds, checked.settings, threat)
    task = "next-character" if checked.settings.dataset == "shakespeare" else "classify"
    return AuditPlan(
        Target(checked.settings, found.clients, found.what),
        against,
        chosen,
        rules,
        efforts_of(chosen, task, against, attacks),  # type: ignore[arg-type]
        trials,
        notices,
        rounds,
    )


def _check_rounds(rounds: int, settings: Settings, threat: str) -> None:
    """Raise ConfigError for rounds that a run does not have, or of which the attacker spoils all but one."""
    if not 1 <= rounds <= settings.num_server_rounds:
        raise ConfigError(
            f"rounds = {rounds}; expected 1 to {settings.num_server_rounds}, the num-server-rounds of the "
            "settings"
        )
    if rounds > 1 and threat == "malicious":
        raise ConfigError(
            f"rounds = {rounds} with threat malicious; what the server put into the first round's weights is "
            "gone after it: audit one round, or threat curious"
        )
