"""The cheapest change of a configuration that leaks, under which the same attacks find nothing."""

from collections.abc import Sequence

from fedeff.app.run import Plan
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.audit.attempts import Found, OnProgress, Progress, attacked, case_of
from fedeff.audit.defences.table import Defence, fix_candidates
from fedeff.audit.finding import Budget
from fedeff.audit.judging.judge import PublicRows, trials_of
from fedeff.audit.judging.trial import Trial
from fedeff.audit.judging.verdict import Verdict, decide
from fedeff.audit.plan import AuditPlan
from fedeff.audit.result import Fix
from fedeff.audit.victims import chosen_victims
from fedeff.core.errors import ConfigError

__all__ = ["cheapest_fix"]


def cheapest_fix(
    plan: AuditPlan,
    controls: Sequence[Trial],
    public: PublicRows,
    *,
    processes: int | None,
    on_progress: OnProgress,
) -> Fix | None:
    """The first of the candidates, cheapest first, that does not fail in a few trials.

    Attacks are tried from the quickest on, and a candidate that leaks is left at once. None: all leak, or the
    tier's time for this was over first. A few trials prove nothing: audit the changed configuration before
    you rely on it.
    """
    budget = Budget(plan.tier.fix_seconds)
    for defence in fix_candidates(plan.target.settings):
        if budget.spent:
            break
        on_progress(Progress(0, 0, f"trying {defence.name}"))
        settings = _settings(defence, plan)
        verdict = None if settings is None else _verdict(settings, plan, controls, public, processes)
        if verdict is not None:
            changes = defence.changes(plan.target.settings)
            return Fix(changes, verdict.outcome, f"{defence.summary}: {_found_in(verdict)}.")
    return None


def _verdict(
    settings: Settings,
    plan: AuditPlan,
    controls: Sequence[Trial],
    public: PublicRows,
    processes: int | None,
) -> Verdict | None:
    """What a few trials come to under these settings; None where they leak."""
    informed, trials = plan.threat == "informed", plan.tier.fix_trials
    shown = chosen_victims(
        settings, plan.target.clients, lambda _: trials, informed=informed, rounds=plan.rounds
    )
    efforts = sorted(plan.efforts, key=lambda one: one.seconds)
    found: list[tuple[Found, ...]] = [() for _ in shown]
    for effort in efforts:
        cases = [case_of(one, [effort], place) for place, one in enumerate(shown)]
        new = attacked(cases, processes)
        if decide(trials_of(cases, new, public), controls, plan.rules).outcome == "FAIL":
            return None
        found = [(*before, *more) for before, more in zip(found, new, strict=True)]
    cases = [case_of(one, efforts, place) for place, one in enumerate(shown)]
    verdict = decide(trials_of(cases, found, public), controls, plan.rules)
    return None if verdict.outcome == "FAIL" else verdict


def _found_in(verdict: Verdict) -> str:
    said = f"no leak in {verdict.trials} trials"
    if verdict.undecided:
        said += f", but in {verdict.undecided} an attack did not come to its end or could not be tried"
    return said


def _settings(defence: Defence, plan: AuditPlan) -> Settings | None:
    """The settings with the defence on; None where they cannot run on so many clients."""
    try:
        runtime = Runtime(clients=plan.target.clients, engine="inline")
        checked, _ = Plan(defence.settings(plan.target.settings), runtime).checked()
    except ConfigError:
        return None
    return checked.settings
