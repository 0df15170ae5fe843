"""The true epsilon: against sums done by hand with dp-accounting, and claims better than the truth."""

import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from scipy import stats

from fedeff.app.settings import Settings
from fedeff.audit.defences.epsilon import (
    check_app,
    check_claim,
    check_local_dp_mod,
    effective_epsilon,
    guarantees_of,
    multiplier_for,
    true_epsilon,
)
from fedeff.audit.defences.promises import guarantee_of_app
from fedeff.audit.result import Guarantee
from fedeff.core.errors import ConfigError

DELTA = 1e-5
LOCAL = Settings(num_server_rounds=7, local_clipping_norm=0.5, local_noise_multiplier=3.0)


def renyi(event: dp_accounting.DpEvent, releases: int) -> float:
    """What dp-accounting says of so many."""
    accountant = rdp.RdpAccountant()
    accountant.compose(event, releases)
    return accountant.get_epsilon(DELTA)


def test_local_gaussian_noise_counts_half_since_two_changes_are_twice_the_norm_apart():
    (found,) = guarantees_of(LOCAL)
    assert found.epsilon == pytest.approx(renyi(dp_accounting.GaussianDpEvent(1.5), 7))
    assert (found.unit, found.against, found.releases, found.delta) == ("client", "server", 7, DELTA)
    assert true_epsilon(LOCAL) == found.epsilon
    assert true_epsilon(LOCAL, against="released") == found.epsilon
    # 7 releases of multiplier 1.5 are one of 1.5 / sqrt(7); Renyi accounting is never below the truth.
    exact = effective_epsilon(0.5, 1.5, DELTA, 7)
    assert exact == pytest.approx(dp_accounting.get_epsilon_gaussian(1.5 / math.sqrt(7), DELTA))
    assert exact <= found.epsilon <= 1.1 * exact


def test_the_exact_epsilon_is_that_of_the_definition():
    """delta(epsilon) of two normal laws that are the sensitivity apart (Balle & Wang, equation 6)."""
    clip, std = 2.0, 7.0
    epsilon = effective_epsilon(clip, std, DELTA)
    shift = 2 * clip / std
    delta = stats.norm.cdf(shift / 2 - epsilon / shift) - math.exp(epsilon) * stats.norm.cdf(
        -shift / 2 - epsilon / shift
    )
    assert delta == pytest.approx(DELTA, rel=1e-6)


def test_local_laplace_noise_adds_up_where_that_is_less():
    few = replace(LOCAL, local_noise="laplace", num_server_rounds=1)
    many = replace(LOCAL, local_noise="laplace", num_server_rounds=400)
    assert true_epsilon(few) == pytest.approx(2 / 3)  # 2 C / (3 C), with delta 0
    renyi_many = renyi(dp_accounting.LaplaceDpEvent(1.5), 400)
    assert true_epsilon(many) == pytest.approx(renyi_many)
    assert renyi_many < 400 * 2 / 3


@pytest.mark.parametrize(
    ("given", "rows", "seen"),
    [
        ({"local_epochs": 3}, 0, 3),
        ({"local_steps": 5, "batch_size": 10}, 100, 1),
        ({"local_steps": 25, "batch_size": 10}, 100, 3),
        ({"local_steps": 5, "batch_size": 10}, 7, 5),
        ({"local_steps": 5, "batch_size": 10}, 0, 5),
        ({"strategy": "post-local"}, 0, 8),
        ({"strategy": "adaptive-batch", "local_steps": 5, "own": (("grow-every", 2),)}, 1600, 1),
        ({"strategy": "adaptive-batch", "local_steps": 5, "own": (("grow-every", 2),)}, 320, 3),
    ],
)
def test_dp_sgd_counts_a_row_once_in_each_pass_and_takes_nothing_off(given, rows, seen):
    settings = Settings(num_server_rounds=4, dp_sgd_clipping_norm=1.0, dp_sgd_noise_multiplier=4.0, **given)
    (found,) = guarantees_of(settings, rows=rows)
    assert (found.unit, found.releases) == ("row", 4 * seen)
    assert found.epsilon == pytest.approx(renyi(dp_accounting.GaussianDpEvent(2.0), 4 * seen))


def test_no_row_is_in_more_batches_than_is_counted():
    """The batches that training really takes, counted."""
    from fedeff.app.client import training_of
    from fedeff.audit.defences.epsilon import _passes
    from fedeff.clients.training import batches

    for rows, steps, epochs, size in ((10, 7, 1, 3), (9, 0, 4, 2), (5, 6, 1, 8), (12, 12, 1, 4)):
        settings = Settings(local_steps=steps, local_epochs=epochs, batch_size=size)
        plan = batches(rows, training_of(settings), np.random.default_rng(0))
        counts = np.bincount(np.concatenate(list(plan)), minlength=rows)
        assert counts.max() == _passes(settings, rows)


def test_opacus_says_the_same_of_every_row_in_every_batch():
    """Its accountant, told that batches are no sample (rate 1): the numbers come from another library."""
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.RDPAccountant()
    accountant.history = [(2.0, 1.0, 12)]
    settings = Settings(
        num_server_rounds=4, local_epochs=3, dp_sgd_clipping_norm=1.0, dp_sgd_noise_multiplier=4.0
    )
    found = true_epsilon(settings)
    assert found == pytest.approx(accountant.get_epsilon(DELTA), rel=0.02)


def test_central_noise_protects_from_readers_of_models_and_not_from_the_server():
    settings = Settings(num_server_rounds=7, noise_multiplier=1.5)
    assert true_epsilon(settings) is None
    assert true_epsilon(settings, against="released") == pytest.approx(
        renyi(dp_accounting.GaussianDpEvent(1.5), 7)
    )
    assert "not the server" in str(guarantees_of(settings)[0])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"local_noise_multiplier": 5.0},  # nothing is clipped
        {"local_clipping_norm": 1.0},
        {"dp_sgd_clipping_norm": 1.0},
        {"codec": "tern_grad"},
        {"secure_aggregation": "lightsecagg"},
        {"local_clipping_norm": 1.0, "local_noise_multiplier": 5.0, "privacy_noise": "seeded"},
    ],
)
def test_what_is_no_differential_privacy_has_no_epsilon(given):
    assert true_epsilon(Settings(**given)) is None
    assert guarantees_of(Settings(**given)) == ()


def test_of_several_guarantees_the_least_holds():
    both = replace(LOCAL, dp_sgd_clipping_norm=1.0, dp_sgd_noise_multiplier=100.0)
    epsilons = {one.mechanism: one.epsilon for one in guarantees_of(both)}
    assert true_epsilon(both) == epsilons["DP-SGD"] < epsilons["local gaussian noise"]


def test_fewer_replies_than_rounds_make_it_less():
    assert true_epsilon(LOCAL, releases=1) == pytest.approx(renyi(dp_accounting.GaussianDpEvent(1.5), 1))
    pushed = replace(LOCAL, strategy="fedbuff", own=(("buffer", 3),))
    assert guarantees_of(pushed)[0].releases == 7 * 3 + 1


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_noise_is_calibrated_to_an_epsilon_from_below(epsilon):
    multiplier = multiplier_for(epsilon, LOCAL)
    found = true_epsilon(replace(LOCAL, local_noise_multiplier=multiplier))
    assert found is not None
    assert 0.9999 * epsilon <= found <= epsilon


def test_an_impossible_epsilon_is_refused():
    with pytest.raises(ConfigError, match="expected a positive number"):
        multiplier_for(0.0, LOCAL)


def test_local_dp_mod_with_a_sensitivity_of_its_own_is_flagged():
    """Clipping norm 5, sensitivity 1, epsilon 1: noise of 4.84 on updates that are up to 10 apart."""
    found = check_local_dp_mod(LocalDpMod(5.0, 1.0, 1.0, DELTA))
    assert not found.holds
    assert found.actual == pytest.approx(
        dp_accounting.get_epsilon_gaussian(math.sqrt(2 * math.log(1.25e5)) / 10, DELTA)
    )
    assert found.actual == pytest.approx(10.39, abs=0.01)
    assert "up to 10 apart, not 1" in found.sentence
    assert "set sensitivity to 10" in found.sentence


def test_local_dp_mod_with_the_right_sensitivity_holds_for_one_reply_alone():
    mod = LocalDpMod(5.0, 10.0, 1.0, DELTA)
    assert check_local_dp_mod(mod).holds
    ten = check_local_dp_mod(mod, releases=10)
    assert not ten.holds
    assert "share epsilon among the rounds" in ten.sentence


def test_an_app_is_checked_by_its_mods():
    app = ClientApp(mods=[fixedclipping_mod, LocalDpMod(5.0, 1.0, 1.0, DELTA)])
    (found,) = check_app(app, releases=3)
    assert (found.claimed, found.releases, found.holds) == (1.0, 3, False)
    assert check_app(ClientApp()) == ()
    guarantee = guarantee_of_app(app)
    assert guarantee.claimed == 1.0
    assert guarantee.epsilon == pytest.approx(10.39, abs=0.01)
    assert guarantee_of_app(ClientApp()) == Guarantee()
    without_delta = guarantee_of_app(ClientApp(mods=[LocalDpMod(1.0, 1.0, 1.0, 0.0)]))
    assert without_delta.epsilon is None
    assert "delta inside (0, 1)" in without_delta.note


def test_the_noise_of_local_dp_mod_is_what_the_check_takes_it_for():
    """Held against flwr: the deviation that its mod logs and adds."""
    from flwr.app import Context, Message, RecordDict

    from fedeff.core.flower import set_task_identity
    from fedeff.core.layers import decode_record, encode_record

    set_task_identity(1)
    zeros = {"w": np.zeros(20_000)}
    message = Message(RecordDict({"arrays": encode_record(zeros)}), dst_node_id=1, message_type="train")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    moved = {"w": zeros["w"] + 1.0}

    def app(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": encode_record(moved)}), reply_to=message)

    state = np.random.get_state()  # noqa: NPY002 - LocalDpMod draws from NumPy's global generator
    np.random.seed(0)  # noqa: NPY002
    try:
        reply = LocalDpMod(5.0, 2.0, 4.0, DELTA)(message, context, app)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    noisy = decode_record(reply.content["arrays"])["w"]
    assert np.std(noisy) == pytest.approx(2.0 * math.sqrt(2 * math.log(1.25e5)) / 4.0, rel=0.03)


def test_local_dp_mod_without_noise_guarantees_nothing():
    found = check_local_dp_mod(LocalDpMod(1.0, 0.0, 1.0, DELTA))
    assert (found.actual, found.holds) == (None, False)
    assert "guarantees nothing" in found.sentence
    with pytest.raises(ConfigError, match="expected epsilon above 0"):
        check_local_dp_mod(LocalDpMod(1.0, 1.0, 0.0, DELTA))


def test_a_claim_is_held_against_the_settings():
    true = true_epsilon(LOCAL)
    assert true is not None
    assert check_claim(true + 0.1, LOCAL).holds
    found = check_claim(1.0, LOCAL)
    assert not found.holds
    assert f"come to epsilon = {true:.3g}" in found.sentence
    none = check_claim(1.0, Settings())
    assert (none.actual, none.holds) == (None, False)
    assert "guarantee none" in none.sentence
