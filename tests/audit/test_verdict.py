"""The verdict as a truth table, and each reason by itself."""

from dataclasses import replace
from itertools import product

import pytest
from audit.results import LM, image_score, trial

from fedeff.audit.judging.leaks import identified_by, labels_told_by, sample_leaks
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Score, Trial
from fedeff.audit.judging.verdict import decide
from fedeff.errors import ConfigError

ENOUGH = 59  # clean trials for a budget of 5% at 95%
FEW = 5  # for one of 50%
CONTROL = trial(image_score(298.0, labels_f1=1.0, labels_chance=0.1))
CLEAN = trial(image_score(9.0, tested=1, decoys=100))


def controls(kind):
    works = {"works": CONTROL, "fails": CLEAN}
    return [] if kind == "none" else [works[kind]] * 3


@pytest.mark.parametrize(
    "fail_on", [("images", "tokens"), ("images", "tokens", "labels")], ids=["", "labels"]
)
@pytest.mark.parametrize("control", ["works", "fails", "none"])
def test_truth_table(control, fail_on):
    rules = Rules(fail_on=fail_on, budget=0.5)
    cases = product(
        (False, True), (False, True), (False, True), ("converged", "budget", "stuck"), (FEW, FEW - 1)
    )
    for image, identity, labels, ended, count in cases:
        scores = [image_score(9.0, tested=1, decoys=100, identified=int(identity))] * count
        if image:
            scores[-1] = replace(scores[-1], psnr_db=(25.0,))
        if labels:
            scores = [replace(score, labels_f1=1.0, labels_chance=0.1) for score in scores]
        verdict = decide([trial(score, ended) for score in scores], controls(control), rules)
        if image or identity or (labels and "labels" in fail_on):
            expected, code = "FAIL", 1
        elif control == "works" and ended == "converged" and count >= FEW:
            expected, code = "PASS", 0
        else:
            expected, code = "INCONCLUSIVE", 2
        case = (image, identity, labels, ended, count)
        assert (verdict.outcome, verdict.exit_code) == (expected, code), case
        assert verdict.sentence.startswith(f"{expected}: "), case
        assert verdict.sentence.endswith("."), case
        assert bool(verdict.reasons) == (expected != "PASS"), case


@pytest.mark.parametrize(
    ("psnr_db", "floor_db", "leaks"),
    [(20.0, 14.0, True), (19.99, 9.0, False), (24.0, 18.01, False), (24.0, 18.0, True), (None, 9.0, False)],
)
def test_an_image_leaks_from_20_db_and_6_db_above_its_floor(psnr_db, floor_db, leaks):
    score = Score(rows=2, rebuilt=1, psnr_db=(psnr_db, None), floor_psnr_db=(floor_db, 9.0))
    assert sample_leaks(score, Rules()) is leaks
    assert not sample_leaks(score, Rules(fail_on=("tokens",)))


@pytest.mark.parametrize(
    ("tokens", "floor", "leaks"), [(0.2, 0.1, True), (0.19, 0.1, False), (0.25, 0.25, False)]
)
def test_tokens_leak_from_a_fifth_and_above_what_is_guessed(tokens, floor, leaks):
    assert sample_leaks(Score(rows=1, tokens=tokens, floor_tokens=floor), Rules()) is leaks


def test_what_leaks_is_said_by_the_image_that_leaks():
    # The largest gain is not a leak: it is below 20 dB.
    score = Score(rows=2, rebuilt=2, psnr_db=(19.0, 27.0), floor_psnr_db=(2.0, 15.0))
    assert "a training image at 27 dB, 12 dB above" in decide([trial(score)], [CONTROL], Rules()).sentence


def test_undecided_trials_count_as_leaks_in_the_bound():
    trials = [CLEAN] * 99 + [trial(image_score(9.0), "budget")]
    verdict = decide(trials, [CONTROL], Rules())
    assert (verdict.outcome, verdict.undecided) == ("PASS", 1)
    assert verdict.leak_rate_below == pytest.approx(0.0466, abs=1e-4)
    assert decide(trials[41:], [CONTROL], Rules()).outcome == "INCONCLUSIVE"


def test_only_attacks_that_work_on_the_control_have_to_end():
    other = trial(image_score(9.0), "budget", attack="dlg").attempts
    trials = [replace(CLEAN, attempts=CLEAN.attempts + other)] * ENOUGH
    assert decide(trials, [CONTROL], Rules()).outcome == "PASS"
    assert (
        decide(trials, [CONTROL, trial(image_score(40.0), attack="dlg")], Rules()).outcome == "INCONCLUSIVE"
    )


def test_an_attack_that_never_had_time_is_not_one_that_fails():
    dlg = {ended: trial(image_score(9.0), ended, attack="dlg").attempts for ended in ("budget", "converged")}
    hurried, done = (replace(CLEAN, attempts=CLEAN.attempts + dlg[ended]) for ended in dlg)
    rushed = replace(CONTROL, attempts=CONTROL.attempts + dlg["budget"])
    useless = replace(CONTROL, attempts=CONTROL.attempts + dlg["converged"])
    assert decide([hurried] * ENOUGH, [rushed], Rules()).outcome == "INCONCLUSIVE"
    assert decide([done] * ENOUGH, [rushed], Rules()).outcome == "PASS"
    assert decide([hurried] * ENOUGH, [useless], Rules()).outcome == "PASS"


def test_a_trial_without_a_working_attack_proves_nothing():
    untried = Trial((3,), 1, 1, 4000, (), {LM: "two rows are summed"})
    verdict = decide([untried] * ENOUGH, [CONTROL], Rules())
    assert verdict.outcome == "INCONCLUSIVE"
    assert "no attack that works on the control could be tried in 59 of 59 trials" in verdict.sentence


def test_half_of_the_controls_have_to_leak():
    assert decide([CLEAN] * ENOUGH, [CONTROL, CLEAN], Rules()).outcome == "PASS"
    verdict = decide([CLEAN] * ENOUGH, [CONTROL, CLEAN, CLEAN], Rules())
    assert verdict.reasons == (
        "the positive control failed: without the defence the attacks rebuilt samples in only 1 of 3 trials",
    )


def test_labels_alone_need_a_control_of_labels():
    rules = Rules(fail_on=("labels",))
    clean = trial(Score(rows=1, labels_f1=0.0, labels_chance=0.1))
    told = trial(Score(rows=1, labels_f1=1.0, labels_chance=0.1))
    assert decide([clean] * ENOUGH, [told] * 3, rules).outcome == "PASS"
    assert decide([clean] * ENOUGH, [clean] * 3, rules).outcome == "INCONCLUSIVE"
    assert decide([told] * 3, [], rules).outcome == "FAIL"
    assert decide([told], [told] * 3, rules).outcome == "INCONCLUSIVE"  # one right guess in ten is no proof


def test_holm_makes_more_attacks_need_more():
    hit = trial(image_score(9.0, tested=1, identified=1, decoys=100))
    assert identified_by([hit], Rules())[0].p_value == pytest.approx(1 / 101)
    missed = trial(image_score(9.0, tested=1, decoys=100), attack="dlg")
    both = replace(hit, attempts=hit.attempts + missed.attempts)
    assert identified_by([both], Rules()) == []
    assert [one.attack for one in identified_by([both, both], Rules())] == [LM]
    assert labels_told_by([both], Rules()) == []


def test_the_fewest_decoys_of_any_trial_set_the_chance():
    trials = [trial(image_score(9.0, tested=1, identified=1, decoys=count)) for count in (100, 20)]
    assert identified_by(trials, Rules())[0].p_value == pytest.approx(2 * 1 / (22 * 21))  # C(2, 2) / C(22, 2)


def test_no_trial_is_no_pass():
    assert decide([], [CONTROL], Rules()).outcome == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fail_on": ("pixels",)}, "unknown kind of leak 'pixels'"),
        ({"fail_on": ()}, "nothing to fail on"),
        ({"budget": 0.0}, "budget is 0"),
        ({"control_share": 1.2}, "control_share is 1.2"),
    ],
)
def test_rules_are_checked(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Rules(**wrong)
