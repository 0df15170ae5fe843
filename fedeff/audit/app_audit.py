"""The audit of a Flower app of others, from its folder and a description to a verdict."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedeff.app.foreign import ForeignApp
from fedeff.audit.attempts import OnProgress, Progress
from fedeff.audit.cases import cases_from
from fedeff.audit.defences.promises import guarantee_of_app
from fedeff.audit.foreign_app import AppDescription, foreign_controls, foreign_victims
from fedeff.audit.judging.judged import judged_cases, seen_of
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.verdict import decide
from fedeff.audit.provenance import provenance_of
from fedeff.audit.result import AuditResult, configuration_of
from fedeff.audit.target import Value
from fedeff.audit.tiers import efforts_of, tier_of
from fedeff.audit.victims import unknowns_of
from fedeff.core.errors import ConfigError

__all__ = ["audit_app"]


def audit_app(
    folder: Path | str,
    description: AppDescription,
    *,
    clients: int,
    tier: str = "quick",
    rules: Rules | None = None,
    attacks: Sequence[str] = (),
    trials: int | None = None,
    overrides: Mapping[str, Value] | None = None,
    seed: int = 0,
    processes: int | None = None,
    on_progress: OnProgress | None = None,
) -> AuditResult:
    """What a curious server could rebuild from what the app's clients send in its first round.

    The control is one plain step on a victim's first row, made here. There are as many trials as clients
    take part in that round, at most. Of an app of others no guarantee is known but that of Flower's
    `LocalDpMod`, and nothing of its noise.

    Raises:
        AppError: if the folder holds no app.
        ConfigError: for an unknown name.
        AuditError: where there is nothing to attack, or the description does not fit the app.
    """
    started, began_s = datetime.now(UTC), time.monotonic()
    if clients < 1:
        raise ConfigError(f"clients = {clients}; expected at least 1")
    tell, judged_by, effort = on_progress or _quiet, rules or Rules(), tier_of(tier)
    efforts = efforts_of(effort, description.public.task, "curious", attacks)
    app = ForeignApp.load(Path(folder), dict(overrides or {}))
    tell(Progress(0, 0, "training what is to be attacked"))
    shown = foreign_victims(Path(folder), description, clients, seed, dict(overrides or {}))
    shown = shown[: trials or effort.trials_for(unknowns_of(shown[0]))]
    undefended = foreign_controls(description, shown[: effort.controls])
    cases = cases_from(shown, undefended, efforts, effort.worst_case)
    judged = judged_cases(cases, description.public_rows, processes, tell)
    view = cases.trials[0].view
    return AuditResult(
        name=f"the Flower app {app.name}",
        configuration=configuration_of({**app.run_config, "clients": clients, "seed": seed}),
        dataset=app.name,
        model=type(description.public.network()).__name__,
        threat="curious",
        tier=effort.name,
        rules=judged_by,
        verdict=decide(judged.trials, judged.controls, judged_by),
        trials=judged.trials,
        controls=judged.controls,
        worst_case=judged.worst_case,
        provenance=provenance_of(efforts, [seed], started, time.monotonic() - began_s),
        seen=seen_of(view),
        exchanges=len(view.exchanges),
        clients_summed=view.first.clients,
        guarantee=guarantee_of_app(app.client),
    )


def _quiet(progress: Progress) -> None:
    """Nobody watches."""
