"""PASS, FAIL or INCONCLUSIVE: what the trials allow to say, by rules that are fixed before they are made."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedeff.audit.judging.leaks import identified_by, labels_told_by, leaked, leaking_rows
from fedeff.audit.judging.rates import clean_trials_for, rate_below
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Attempt, Trial

__all__ = ["CONFIGURATION_ERROR", "EXIT_CODES", "Outcome", "Rules", "Verdict", "decide"]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]

EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 2}
CONFIGURATION_ERROR = 3  # the exit code where there is no audit

_WHY_UNDECIDED = {
    "budget": "the attacks' time was spent",
    "stuck": "an attack's loss had not converged",
    "untried": "no attack that works on the control could be tried",
}


@dataclass(frozen=True)
class Verdict:
    """What the audit comes to, in one sentence, and why.

    `leaks` are the trials with a sample that came too near, `undecided` those without, in which an
    attack that works on the control, or had no time there to show that it does, did not come to its end,
    or none that works could be tried; both count against `leak_rate_below`, the upper bound on the share of
    updates that leak.
    """

    outcome: Outcome
    sentence: str
    reasons: tuple[str, ...] = ()
    trials: int = 0
    leaks: int = 0
    undecided: int = 0
    leak_rate_below: float = 1.0

    @property
    def exit_code(self) -> int:
        """0 pass, 1 leak, 2 inconclusive."""
        return EXIT_CODES[self.outcome]


def decide(trials: Sequence[Trial], control_trials: Sequence[Trial], rules: Rules) -> Verdict:
    """The verdict on independent trials, given the same attacks without the defence.

    FAIL: any sample came too near, or an attack identifies rows (or tells labels, where asked for) beyond
    chance. PASS: none did, the control's attacks work, and the leak rate is shown to be below the budget.
    INCONCLUSIVE: everything else, with its reasons; an attack that failed is not safety.
    """
    found = _leaks_found(trials, rules)
    works = _working(control_trials, rules)
    lost = [bool(leaked(trial, rules)) for trial in trials]
    rushed = _rushed(control_trials, works)
    undecided = Counter(
        _undecided(t, works, rushed) for t, gone in zip(trials, lost, strict=True) if not gone
    )
    del undecided[""]
    counted = sum(lost) + undecided.total()
    below = rate_below(counted, len(trials), rules.confidence)
    outcome: Outcome = "FAIL" if found else "PASS"
    reasons = found or [
        *_control_failed(control_trials, rules),
        *_not_shown(len(trials), undecided, below, rules),
    ]
    if not found and reasons:
        outcome = "INCONCLUSIVE"
    return Verdict(
        outcome=outcome,
        sentence=_sentence(outcome, reasons, len(trials), len(works), rules),
        reasons=tuple(reasons),
        trials=len(trials),
        leaks=sum(lost),
        undecided=undecided.total(),
        leak_rate_below=below,
    )


def _leaks_found(trials: Sequence[Trial], rules: Rules) -> list[str]:
    """What a FAIL rests on, the most telling first."""
    attempts = [one for trial in trials for one in trial.attempts if one.attack in leaked(trial, rules)]
    many = sum(bool(leaked(trial, rules)) for trial in trials)
    found = [f"{_said(attempts, rules)}; {_of(many, len(trials))} leaked"] if attempts else []
    if rules.samples:
        found += [
            f"what {one.attack} rebuilt points at the very sample that was trained on in {one.hits} of "
            f"{one.tested} cases, among decoys of the same label (p = {one.p_value:.1e})"
            for one in identified_by(trials, rules)
        ]
    if "labels" in rules.fail_on:
        found += [
            f"{one.attack} told the labels in {_of(one.hits, one.tested)} (p = {one.p_value:.1e})"
            for one in labels_told_by(trials, rules)
        ]
    return found


def _said(attempts: Sequence[Attempt], rules: Rules) -> str:
    """The most telling of the attempts that leaked, in words."""
    images = [(*gain, one) for one in attempts for gain in leaking_rows(one.score, rules).values()]
    if images:
        psnr, gain, one = max(images, key=lambda image: image[1])
        return (
            f"{one.attack} rebuilt a training image at {psnr:.0f} dB, {gain:.0f} dB above what is guessed "
            "without the update"
        )
    best = max(attempts, key=lambda attempt: attempt.score.tokens or 0.0)
    return f"{best.attack} rebuilt {100 * (best.score.tokens or 0.0):.0f}% of a victim's tokens exactly"


def _working(control_trials: Sequence[Trial], rules: Rules) -> frozenset[str]:
    """The attacks that do leak without the defence: only these say something by failing."""
    samples = frozenset[str]().union(*(leaked(trial, rules) for trial in control_trials))
    labels = labels_told_by(control_trials, rules) if "labels" in rules.fail_on else []
    return samples | {one.attack for one in labels}


def _rushed(control_trials: Sequence[Trial], works: frozenset[str]) -> frozenset[str]:
    """The attacks whose time was up on a control: they may work, and a slow machine must not hide that."""
    tried = (one for trial in control_trials for one in trial.attempts)
    return frozenset(one.attack for one in tried if one.ended == "budget") - works


def _control_failed(control_trials: Sequence[Trial], rules: Rules) -> list[str]:
    if not control_trials:
        return ["there was no positive control"]
    failed = []
    many = sum(bool(leaked(trial, rules)) for trial in control_trials)
    if rules.samples and many < rules.control_share * len(control_trials):
        failed.append(
            "the positive control failed: without the defence the attacks rebuilt samples in only "
            f"{_of(many, len(control_trials))}"
        )
    if "labels" in rules.fail_on and not labels_told_by(control_trials, rules):
        failed.append("the positive control failed: without the defence no attack told the labels")
    return failed


def _undecided(trial: Trial, works: frozenset[str], rushed: frozenset[str]) -> str:
    """Why nothing follows from this trial's not leaking; empty where something does."""
    endings = [one.ended for one in trial.attempts if one.attack in works]
    if not endings:
        return "untried" if works else ""  # without a working attack it is the control that failed
    if any(one.attack in rushed and one.ended == "budget" for one in trial.attempts):
        return "budget"
    return next((why for why in ("budget", "stuck") if why in endings), "")


def _not_shown(trials: int, undecided: Counter[str], below: float, rules: Rules) -> list[str]:
    """Why the bound on the leak rate is above the budget; nothing where it is not."""
    if trials and below <= rules.budget:
        return []
    if undecided:
        return [f"{_WHY_UNDECIDED[why]} in {_of(many, trials)}" for why, many in sorted(undecided.items())]
    needed = clean_trials_for(rules.budget, rules.confidence)
    return [
        f"{trials} clean trials were made of the {needed} that the budget of {_percent(rules.budget)} takes"
    ]


def _sentence(outcome: Outcome, reasons: Sequence[str], trials: int, works: int, rules: Rules) -> str:
    if outcome == "FAIL":
        return f"FAIL: {reasons[0]}."
    if outcome == "INCONCLUSIVE":
        return f"INCONCLUSIVE: no leak was found, but {reasons[0]}; an attack that failed is not safety."
    tried = "the attack that works" if works == 1 else f"the {works} attacks that work"
    return (
        f"PASS: {tried} without the defence rebuilt nothing in {trials} trials; with "
        f"{_percent(rules.confidence)} confidence fewer than {_percent(rules.budget)} of updates leak to "
        f"{'it' if works == 1 else 'them'}."
    )


def _of(some: int, all_of_them: int) -> str:
    return f"{some} of {all_of_them} trials"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"
