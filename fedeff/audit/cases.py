"""The cases of an audit: victims of the configuration, of the control, and with their labels known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedeff.app.settings import Settings
from fedeff.audit.attempts import Case, case_of
from fedeff.audit.plan import AuditPlan
from fedeff.audit.tiers import Effort
from fedeff.audit.victims import Victim, chosen_victims, controls
from fedeff.audit.view import ServerView
from fedeff.core.errors import AuditError

__all__ = ["Cases", "cases_from", "cases_of"]


@dataclass(frozen=True, eq=False)
class Cases:
    """Victims of the configuration, the same clients undefended, and the first again, with their labels."""

    trials: tuple[Case, ...]
    controls: tuple[Case, ...]
    worst_case: tuple[Case, ...]


def cases_of(plan: AuditPlan, settings: Settings) -> Cases:
    """The cases of a plan under these settings, which may be those of a malicious server.

    Raises:
        AuditError: where no attack can be tried on a single victim, or rounds are of different rows and
            labels matter.
    """
    clients, informed = plan.target.clients, plan.threat == "informed"
    shown = chosen_victims(
        settings,
        clients,
        lambda unknowns: plan.trials or plan.tier.trials_for(unknowns),
        informed=informed,
        rounds=plan.rounds,
    )
    if informed or "labels" in plan.rules.fail_on:
        _refuse_different_rows(shown)
    undefended = controls(settings, clients, shown[: plan.tier.controls], informed=informed)
    return cases_from(
        shown, undefended, plan.efforts, plan.tier.worst_case if plan.threat == "curious" else 0
    )


def cases_from(
    shown: Sequence[Victim], undefended: Sequence[Victim], efforts: Sequence[Effort], worst_case: int
) -> Cases:
    """The cases of these victims and controls; so many victims are attacked again with their labels known.

    Raises:
        AuditError: where no attack can be tried on a single victim.
    """
    images = shown[0].captured.view.public.task == "classify"  # of text the labels are the text
    alike = [one for one in shown if one.captured.view.same_rows]  # of others labels are of unknown rounds
    worst = alike[:worst_case] if images else []
    found = Cases(
        tuple(case_of(one, efforts, place) for place, one in enumerate(shown)),
        tuple(case_of(one, efforts, place) for place, one in enumerate(undefended)),
        tuple(case_of(one, efforts, place, _with_labels(one)) for place, one in enumerate(worst)),
    )
    _refuse_nothing_to_try(found)
    return found


def _with_labels(victim: Victim) -> ServerView:
    """The view of somebody who knows the labels; sorted, since nobody knows their order."""
    return replace(victim.captured.view, labels=np.sort(victim.captured.truth.labels))


def _refuse_different_rows(shown: Sequence[Victim]) -> None:
    """Raise AuditError where rounds are of different rows: whose labels are whose is not told."""
    if not all(one.captured.view.same_rows for one in shown):
        raise AuditError(
            "these rounds are of different rows, so labels cannot be told apart by round; audit one round, "
            "or threat curious without --fail-on labels"
        )


def _refuse_nothing_to_try(cases: Cases) -> None:
    """Raise AuditError where no attack fits a single victim: an empty report would look like safety."""
    if not any(case.efforts for case in cases.trials):
        why = "; ".join(f"{name}: {reason}" for name, reason in cases.trials[0].skipped.items())
        raise AuditError(f"no attack can be tried on this configuration ({why}); name others with --attack")
