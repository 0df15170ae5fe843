"""One audit, from settings to a verdict: capture, attack, score, decide."""

import time
from contextlib import nullcontext
from datetime import UTC, datetime

from fedeff.app.settings import Settings
from fedeff.audit.attempts import OnProgress, Progress
from fedeff.audit.cases import cases_of
from fedeff.audit.defences.beliefs import beliefs_of
from fedeff.audit.defences.claims import check_wiring
from fedeff.audit.defences.fixes import cheapest_fix
from fedeff.audit.defences.promises import guarantee_of, heeding, measured_claims
from fedeff.audit.judging.judge import public_rows
from fedeff.audit.judging.judged import judged_cases, seen_of
from fedeff.audit.judging.verdict import decide
from fedeff.audit.malice import crafted
from fedeff.audit.maps.maps import Maps, maps_of
from fedeff.audit.plan import AuditPlan
from fedeff.audit.provenance import provenance_of
from fedeff.audit.result import AuditResult, configuration_of

__all__ = ["run_audit"]


def run_audit(
    plan: AuditPlan, *, processes: int | None = None, on_progress: OnProgress | None = None
) -> AuditResult:
    """What a plan finds."""
    started, began_s = datetime.now(UTC), time.monotonic()
    tell = on_progress or _quiet
    tell(Progress(0, 0, "training what is to be attacked"))
    settings, clients = plan.target.settings, plan.target.clients
    public = public_rows(settings)
    with crafted(settings) if plan.threat == "malicious" else nullcontext(settings) as sent:
        cases = cases_of(plan, sent)
    wirings = check_wiring(settings, clients)
    judged = judged_cases(cases, public, processes, tell)
    verdict = heeding(decide(judged.trials, judged.controls, plan.rules), wirings)
    fix = None
    if plan.tier.fix_trials and verdict.outcome == "FAIL" and plan.threat != "malicious":
        fix = cheapest_fix(plan, judged.controls, public, processes=processes, on_progress=tell)
    maps = Maps()
    if plan.tier.map_seconds and cases.controls:
        control, trial = cases.controls[0].victim, judged.controls[0]
        maps = maps_of(control, trial, plan, public, processes=processes, on_progress=tell)
    first = cases.trials[0].view
    return AuditResult(
        name=plan.target.what,
        configuration=configuration_of({**settings.run_config(), "clients": clients}),
        dataset=settings.dataset,
        model=settings.model,
        threat=plan.threat,
        tier=plan.tier.name,
        rules=plan.rules,
        verdict=verdict,
        trials=judged.trials,
        controls=judged.controls,
        worst_case=judged.worst_case,
        provenance=provenance_of(
            plan.efforts, (one.victim.seed for one in cases.trials), started, time.monotonic() - began_s
        ),
        seen=seen_of(first),
        exchanges=len(first.exchanges),
        clients_summed=first.first.clients,
        guarantee=guarantee_of(settings),
        layers=maps.layers,
        noise=maps.noise,
        claims=(*measured_claims(wirings), *beliefs_of(settings, verdict)),
        fix=fix,
        vocabulary=_vocabulary(settings),
    )


def _vocabulary(settings: Settings) -> str:
    from fedeff.app.workload import dataset_of

    return dataset_of(settings).vocabulary


def _quiet(progress: Progress) -> None:
    """Nobody watches."""
