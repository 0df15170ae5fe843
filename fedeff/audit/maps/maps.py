"""Where an undefended update leaks, by layer, and how fast noise stops it: measured on the first control."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedeff.audit.attempts import OnProgress, Progress, attacked
from fedeff.audit.judging.judge import PublicRows, trials_of
from fedeff.audit.judging.leaks import leaked
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Trial
from fedeff.audit.maps.leak_map import layer_cases, layer_leaks, layers_of
from fedeff.audit.maps.noise_curve import noise_cases, noise_levels, noise_points
from fedeff.audit.plan import AuditPlan
from fedeff.audit.result import LayerLeak, NoisePoint
from fedeff.audit.tiers import Effort
from fedeff.audit.victims import Victim

__all__ = ["Maps", "maps_of"]

_CHEAP = ("phong", "levenberg-marquardt")  # seconds where an update hides few numbers


@dataclass(frozen=True)
class Maps:
    """What each layer alone gives away, and what noise leaves of it; empty where it was not measured."""

    layers: tuple[LayerLeak, ...] = ()
    noise: tuple[NoisePoint, ...] = ()


def maps_of(
    control: Victim,
    judged: Trial,
    plan: AuditPlan,
    public: PublicRows,
    *,
    processes: int | None,
    on_progress: OnProgress,
) -> Maps:
    """The maps of one undefended row and step, of which `judged` is the trial.

    Tried are the plan's cheap attacks; where none of these leaks there, the one that came nearest.
    Each has at most the tier's `map_seconds`. Of text there are no maps.
    """
    if control.captured.view.public.task != "classify":
        return Maps()
    on_progress(Progress(0, 0, "layer by layer, and with noise"))
    chosen = _chosen(plan.efforts, judged, plan.rules)
    images = [replace(one, seconds=min(one.seconds, plan.tier.map_seconds)) for one in chosen]
    labels = [one for one in plan.efforts if one.attack == "labels"]
    layers, levels = layers_of(control.captured.view), noise_levels(control, public) if images else ()
    cases = [*layer_cases(control, layers, [*images, *labels]), *noise_cases(control, levels, images)]
    trials = trials_of(cases, attacked(cases, processes), public)
    by_layer = trials[: len(cases) - len(levels)]
    return Maps(layer_leaks(layers, by_layer), noise_points(levels, trials[len(by_layer) :]))


def _chosen(efforts: Sequence[Effort], judged: Trial, rules: Rules) -> list[Effort]:
    cheap = [one for one in efforts if one.attack in _CHEAP]
    if {one.attack for one in cheap} & leaked(judged, rules):
        return cheap
    worths = {one.attack: one.score.best_gain_db for one in judged.attempts}
    gains = {name: gain for name, gain in worths.items() if gain is not None}
    best = max(gains, key=lambda name: gains[name], default="")
    return [one for one in efforts if one in cheap or one.attack == best]
