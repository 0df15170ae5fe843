"""Inputs by least squares and by L-BFGS: on networks that can be inverted, masked, noisy, kinked."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from audit.views import SmoothNet, digits, largest_known, psnr, seeded, some_known, view_of
from torch import nn

from fedeff.audit.attacks.dlg import DeepLeakage
from fedeff.audit.attacks.inverting_gradients import InvertingGradients
from fedeff.audit.attacks.levenberg_marquardt import LevenbergMarquardt
from fedeff.audit.finding import Budget
from fedeff.audit.naive import naive
from fedeff.audit.replay.bounds import cramer_rao, information, psnr_of
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models import build


def _run(attack, view, seconds=300.0):
    return attack.run(view, Budget(seconds), np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(3))
def test_one_digit_is_exact_to_the_wire(seed):
    x, y = digits(1, seed)
    finding = _run(LevenbergMarquardt(), view_of(seeded(SmoothNet, seed), x, y)[0])
    assert psnr(finding.inputs, x) > 60
    assert finding.labels.tolist() == y.tolist()
    assert finding.converged
    assert finding.loss < 1e-6


def test_without_a_wire_it_is_exact_to_float64():
    x, y = digits(1)
    finding = _run(LevenbergMarquardt(), view_of(seeded(SmoothNet), x, y, exact=True)[0])
    assert psnr(finding.inputs, x) > 150


def test_a_tenth_of_the_entries_is_enough():
    x, y = digits(1)
    network = seeded(SmoothNet)
    finding = _run(LevenbergMarquardt(), view_of(network, x, y, known=some_known(network, 0.1))[0])
    assert psnr(finding.inputs, x) > 40


def test_several_local_steps_are_gone_through():
    x, y = (part[:2] for part in digits(4))
    training = LocalTraining(epochs=2, batch_size=2, learning_rate=0.05)
    finding = _run(LevenbergMarquardt(), view_of(seeded(SmoothNet), x, y, training=training, exact=True)[0])
    best = [max(psnr(one, row) for one in finding.inputs) for row in x]
    assert min(best) > 40


def test_in_noise_it_comes_near_the_bound():
    x, y = digits(1)
    view, _ = view_of(seeded(SmoothNet), x, y, kind="gradient", noise=1e-5)
    found = _run(LevenbergMarquardt(), view)
    bound = psnr_of(cramer_rao(information(view, x, y), 1e-5))
    # Clipping to the range of pixels is what the attack knows beyond an unbiased one.
    assert bound - 1.5 < psnr(found.inputs, x) < bound + 6


def test_conjugate_gradients_get_there_too():
    x, y = digits(1)
    finding = _run(LevenbergMarquardt(dense=0), view_of(seeded(SmoothNet), x, y, exact=True)[0])
    assert psnr(finding.inputs, x) > 40


@pytest.mark.slow
def test_a_rectified_and_pooled_network_is_followed_from_a_smooth_one():
    x, y = digits(1)
    view, _ = view_of(build("cnn", input_shape=(1, 8, 8)), x, y, informed=True)
    attack = LevenbergMarquardt(restarts=1)
    assert psnr(_run(attack, view).inputs, x) > 40
    assert psnr(_run(replace(attack, widths=(0.0,)), view).inputs, x) < 40


def test_the_same_generator_gives_the_same_and_torchs_stays():
    x, y = digits(1)
    view, _ = view_of(seeded(SmoothNet), x, y)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    one, other = _run(LevenbergMarquardt(), view), _run(LevenbergMarquardt(), view)
    assert one.inputs.tolist() == other.inputs.tolist()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("joint", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dlg_rebuilds_a_digit(joint):
    x, y = digits(1)
    finding = _run(DeepLeakage(joint_labels=joint, restarts=1), view_of(seeded(SmoothNet), x, y)[0])
    assert psnr(finding.inputs, x) > 40
    assert finding.labels.tolist() == y.tolist()


def without_last_layer(view):
    told = {key: one for key, one in view.first.told.items() if not key.startswith("fc.")}
    return replace(view, exchanges=(replace(view.first, told=told),))


def test_a_label_that_nothing_betrays_is_tried():
    x, y = digits(1)
    finding = _run(LevenbergMarquardt(), without_last_layer(view_of(seeded(SmoothNet), x, y)[0]))
    assert psnr(finding.inputs, x) > 40
    assert finding.labels.tolist() == y.tolist()


def test_of_several_rows_only_dlg_goes_without_labels():
    view = without_last_layer(view_of(seeded(SmoothNet), *digits(2))[0])
    assert "last layer" in LevenbergMarquardt().obstacle(view)
    assert "last layer" in InvertingGradients().obstacle(view)
    assert DeepLeakage().obstacle(view) is None


@pytest.mark.parametrize("dense", [0, 10_000])
def test_a_small_budget_is_heeded_on_a_big_problem(dense):
    network = seeded(lambda: SmoothNet(side=24))
    x = np.random.default_rng(0).random((1, 1, 24, 24), dtype=np.float32)
    view, _ = view_of(network, x, np.array([3]))
    began = time.process_time()
    finding = LevenbergMarquardt(dense=dense).run(view, Budget(0.1), np.random.default_rng(0))
    assert time.process_time() - began < 4
    assert not finding.converged


@pytest.mark.parametrize("attack", [LevenbergMarquardt(), DeepLeakage()], ids=lambda one: one.name)
def test_a_spent_budget_ends_them_without_a_claim(attack):
    x, y = digits(1)
    finding = _run(attack, view_of(seeded(SmoothNet), x, y)[0], seconds=0.0)
    assert not finding.converged
    assert finding.inputs.shape == x.shape


@pytest.mark.parametrize("attack", [LevenbergMarquardt(), DeepLeakage()], ids=lambda one: one.name)
def test_what_cannot_be_attacked_is_named(attack):
    tokens = np.zeros((1, 5), np.int64)
    text, _ = view_of(build("gru", classes=90, input_shape=(5,)), tokens, tokens, classes=90)
    assert "text" in attack.obstacle(text)
    view, _ = view_of(seeded(SmoothNet), *digits(1))
    adam = replace(view, exchanges=(replace(view.first, training=LocalTraining(optimizer="adam")),))
    with pytest.raises(AuditError, match="adam"):
        _run(attack, adam)


def test_what_top_k_left_out_is_small_and_that_tells():
    x, y = digits(1)
    view = largest_known(view_of(build("mlp", input_shape=(1, 8, 8)), x, y)[0])
    aware, blind = (_run(LevenbergMarquardt(restarts=2), one) for one in (view, naive(view)))
    assert psnr(aware.inputs, x) > psnr(blind.inputs, x) + 5


def test_where_inputs_change_nothing_there_is_an_end():
    x, y = digits(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    nn.init.constant_(network[1].bias, -100.0)  # every unit is off
    view, _ = view_of(network, x, y)
    told = {key: one for key, one in view.first.told.items() if key == "3.bias"}
    finding = _run(LevenbergMarquardt(restarts=2), replace(view, exchanges=(replace(view.first, told=told),)))
    assert finding.labels.tolist() == y.tolist()
    assert np.isfinite(finding.inputs).all()
