"""What a layer alone gives away, and what noise leaves: known answers on a dense network."""

from dataclasses import replace

import numpy as np
import pytest

from fedeff.app import Settings
from fedeff.audit import audit_leak, write_audit
from fedeff.audit.attempts import attacked
from fedeff.audit.judging.judge import public_rows, trials_of
from fedeff.audit.judging.rules import Rules
from fedeff.audit.maps.leak_map import layer_cases, layers_of
from fedeff.audit.maps.maps import Maps, maps_of
from fedeff.audit.maps.noise_curve import noise_cases, noise_levels, noise_points
from fedeff.audit.plan import plan_of
from fedeff.audit.tiers import Effort, tier_of
from fedeff.audit.victims import chosen_victims

OPEN = Settings(dataset="digits", model="mlp", partition="iid", cohort=20, batch_size=1, local_steps=1)
PHONG = (Effort("labels", 5.0), Effort("phong", 5.0))
PLAN = replace(plan_of(OPEN, tier="standard", threat="curious", rules=Rules(), clients=20), efforts=PHONG)


@pytest.fixture(scope="module")
def control():
    return chosen_victims(OPEN, 20, lambda unknowns: 1)[0]


@pytest.fixture(scope="module")
def public():
    return public_rows(OPEN)


def test_a_layers_view_knows_that_layer_and_nothing_else(control) -> None:
    layers = layers_of(control.captured.view)
    assert [(layer.name, layer.entries) for layer in layers] == [
        ("fc1", 4160),
        ("fc2", 650),
        ("all biases", 74),
    ]
    cases = layer_cases(control, layers, PHONG)
    for place, layer in enumerate(layers):
        for case in cases[2 * place : 2 * place + 2]:
            told = case.view.first.told
            assert {key for key, one in told.items() if one.mask.any()} == set(layer.keys)
            assert not any(one.bounded.any() for one in told.values())
    assert [case.view.labels is None for case in cases[:2]] == [False, True]


def test_the_first_layer_shows_the_image_and_the_last_one_the_label(control, public) -> None:
    (trial,) = judged(control, public)
    told = {"processes": 1, "on_progress": lambda progress: None}
    found = maps_of(control, trial, PLAN, public, **told)
    by_name = {one.layer: one for one in found.layers}
    assert by_name["fc1"].psnr_db > 100
    assert by_name["fc1"].labels_f1 is None
    assert by_name["fc2"].psnr_db is None
    assert by_name["fc2"].labels_f1 == by_name["all biases"].labels_f1 == 1.0
    assert len(found.noise) > 3


def test_the_attack_follows_the_bounds_down_to_a_guess(control, public) -> None:
    levels = noise_levels(control, public)
    assert np.all(np.diff([one.std for one in levels]) > 0)
    assert np.all(np.diff([one.prior_db for one in levels]) < 0)
    assert all(one.unbiased_db <= one.prior_db for one in levels)  # a prior never hurts
    # Without a prior each tenfold of noise costs 20 dB.
    assert levels[0].unbiased_db - levels[2].unbiased_db == pytest.approx(20.0)
    cases = noise_cases(control, levels, PHONG[1:])
    points = noise_points(levels, trials_of(cases, attacked(cases, 1), public))
    assert all(abs(one.psnr_db - one.unbiased_db) < 4 for one in points[:4])
    assert points[-1].psnr_db < points[-1].prior_db
    clean = control.captured.view.first.told["fc1.weight"].values
    noisy = cases[2].view.first.told["fc1.weight"]
    assert np.std(noisy.values - clean) == pytest.approx(levels[2].std, rel=0.05)
    assert noisy.std == levels[2].std


def test_what_would_take_too_long_is_left_out(control, public, monkeypatch) -> None:
    monkeypatch.setattr("fedeff.audit.maps.noise_curve._MOST_NUMBERS", 64 * 4000)
    assert noise_levels(control, public) == ()
    text = replace(
        control.captured, view=replace(
            control.captured.view, public=replace(control.captured.view.public, task="next-character")
        )
    )  # fmt: skip
    (trial,) = judged(control, public)
    quiet = {"processes": 1, "on_progress": lambda progress: None}
    assert maps_of(replace(control, captured=text), trial, PLAN, public, **quiet) == Maps()
    assert tier_of("quick").map_seconds == 0 < tier_of("standard").map_seconds


def test_a_standard_audit_has_both_and_a_fix_that_it_tried(tmp_path) -> None:
    result = audit_leak(OPEN, tier="standard", clients=20, attacks=["labels", "phong"], trials=1, processes=1)
    assert [one.layer for one in result.layers] == ["fc1", "fc2", "all biases"]
    assert all(one.prior_db is not None for one in result.noise)
    assert result.fix.sentence.endswith("no leak in 3 trials.")
    assert result.fix.outcome == "INCONCLUSIVE"
    said = write_audit(result, tmp_path).read_text()
    assert "What each layer gives away" in said
    assert "What noise buys" in said
    assert "Cheapest fix: " in said


def judged(control, public):
    from fedeff.audit.attempts import case_of

    cases = [case_of(control, PHONG, 0)]
    return trials_of(cases, attacked(cases, 1), public)
