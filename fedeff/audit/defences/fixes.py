"""The cheapest change of a configuration that leaks, under which the same attacks find nothing."""

from collections.abc import Sequence

from fedeff.app.run import Plan
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.audit.attempts import OnProgress, Progress, attacked, case_of
from fedeff.audit.defences.table import Defence, fix_candidates
from fedeff.audit.judging.judge import PublicRows, trials_of
from fedeff.audit.judging.trial import Trial
from fedeff.audit.judging.verdict import decide
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
    """The first of the candidates, cheapest first, that does not fail in a few trials; None: all do.

    A few trials prove nothing: audit the changed configuration before you rely on it.
    """
    trials = plan.tier.fix_trials
    for defence in fix_candidates(plan.target.settings):
        on_progress(Progress(0, 0, f"trying {defence.name}"))
        settings = _settings(defence, plan)
        if settings is None:
            continue
        shown = chosen_victims(
            settings, plan.target.clients, lambda _: trials, informed=plan.threat == "informed"
        )
        cases = [case_of(one, plan.efforts, place) for place, one in enumerate(shown)]
        verdict = decide(trials_of(cases, attacked(cases, processes), public), controls, plan.rules)
        if verdict.outcome != "FAIL":
            changes = defence.changes(plan.target.settings)
            return Fix(changes, verdict.outcome, f"{defence.summary}: no leak in {trials} trials")
    return None


def _settings(defence: Defence, plan: AuditPlan) -> Settings | None:
    """The settings with the defence on; None where they cannot run on so many clients."""
    try:
        runtime = Runtime(clients=plan.target.clients, engine="inline")
        checked, _ = Plan(defence.settings(plan.target.settings), runtime).checked()
    except ConfigError:
        return None
    return checked.settings
