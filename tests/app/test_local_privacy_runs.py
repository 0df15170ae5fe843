"""The built-in app with noise of the clients' own: settings that go together, runs, what goes on record."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedeff.app.client import app as client_app
from fedeff.app.client import training_of
from fedeff.app.local_privacy import dp_sgd_of, local_privacy_of, noise_std_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record
from fedeff.core.records import RoundRecord
from fedeff.simulation import run_simulation

GIVEN = {"dataset": "digits", "model": "mlp", "cohort": 3, "num-server-rounds": 3, "local-steps": 2}
SEEDED = {"local_noise_multiplier": 0.05, "privacy_noise": "seeded"}


def run(**settings: Any) -> tuple[dict[str, np.ndarray], list[RoundRecord]]:
    records: list[RoundRecord] = []
    config = {**GIVEN, **{key.replace("_", "-"): value for key, value in settings.items()}}
    result = run_simulation(
        server_app(on_round=records.append), client_app, 4, run_config=config, engine="inline", seed=0
    )
    return decode_record(result.context.state["model"]), records


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


@pytest.mark.parametrize(
    "given",
    [
        {"strategy": "fedlama"},
        {"strategy": "partial", "groups": 2, "by": "channel"},
        {"strategy": "partial", "groups": 2, "overlap": True},
        {"strategy": "diloco"},
        {"strategy": "fedluar"},
        {"strategy": "fedbuff", "buffer": 2},
        {"codec": "chain(top_k(0.1), half)"},
        {"codec": "tern_grad", "codec_shared_scale": True},
        {"secure_aggregation": "secagg", "strategy": "fedlama"},
        {"noise_multiplier": 0.1},
    ],
)
def test_it_runs_under_strategies_codecs_and_sums(given):
    """A norm that nothing reaches and no noise changes nothing; clipping and noise do."""
    plain, _ = run(privacy_noise="seeded", **given)
    idle, _ = run(privacy_noise="seeded", local_clipping_norm=1e6, **given)
    noisy, records = run(local_clipping_norm=0.02, **SEEDED, **given)
    assert furthest(plain, idle) < 1e-3  # a codec draws other values where a weight is off by a bit
    assert furthest(plain, noisy) > 1e-3
    assert sum(record.refused for record in records) == 0
    assert all("train-loss" not in record.train_metrics for record in records)


@pytest.mark.parametrize("given", [{}, {"strategy": "fedlama"}])
def test_noise_in_blocks_and_in_the_loop_is_the_same(given):
    settings = {"local_clipping_norm": 0.05, **SEEDED, **given}
    block, loop = run(vectorise="always", **settings)[0], run(vectorise="never", **settings)[0]
    assert furthest(block, loop) < 1e-5
    assert furthest(block, run(**settings)[0]) < 1e-5


def test_clipping_alone_tells_the_loss_and_noise_does_not():
    assert "train-loss" in run(local_clipping_norm=0.1)[1][-1].train_metrics
    assert local_privacy_of(Settings()) is None
    quiet = local_privacy_of(Settings(dp_sgd_clipping_norm=1.0, dp_sgd_noise_multiplier=1.0))
    assert quiet is not None
    assert quiet.quiet


def test_secret_noise_is_another_in_each_run():
    settings = {"local_clipping_norm": 0.05, "local_noise_multiplier": 0.05}
    assert furthest(run(**settings)[0], run(**settings)[0]) > 1e-3


def test_dp_sgd_learns_less_than_plain_training():
    once = {"num_server_rounds": 1, "cohort": 2}
    plain, records = run(**once)
    clipped, _ = run(dp_sgd_clipping_norm=0.01, **once)
    first, _ = run(learning_rate=1e-9, **once)
    assert 0 < furthest(first, clipped) < 0.1 * furthest(first, plain)
    assert records[-1].train_metrics["train-loss"] > 0


@pytest.mark.parametrize(
    ("training", "examples", "std"),
    [
        ({"local_steps": 1, "batch_size": 4}, 100, 0.1 * 0.6 / 4),
        ({"local_steps": 9, "batch_size": 4}, 100, 3 * 0.1 * 0.6 / 4),
        # two passes of batches of 4 and 1
        ({"local_epochs": 2, "batch_size": 4}, 5, 0.1 * 0.6 * np.sqrt(2 * (1 / 16 + 1))),
        # the first of two steps goes on by momentum
        (
            {"local_steps": 2, "batch_size": 2, "optimizer": "momentum", "momentum": 0.5},
            8,
            0.1 * 0.6 / 2 * np.hypot(1.0, 1.5),
        ),
        ({"local_steps": 1, "optimizer": "adam"}, 100, 0.0),
    ],
)
def test_the_noise_on_record(training, examples, std):
    settings = Settings(learning_rate=0.1, dp_sgd_clipping_norm=0.3, dp_sgd_noise_multiplier=2.0, **training)
    assert noise_std_of(settings, training_of(settings), examples) == pytest.approx(std)
    both = replace(settings, local_clipping_norm=0.5, local_noise_multiplier=0.02)
    assert noise_std_of(both) == pytest.approx(0.01)
    assert noise_std_of(both, training_of(both), examples) == pytest.approx(np.hypot(std, 0.01))
    assert noise_std_of(replace(both, local_noise="laplace")) == pytest.approx(0.01 * np.sqrt(2))
    assert noise_std_of(Settings(noise_multiplier=5.0)) == 0.0  # the server sees what is under it


def test_where_nothing_is_asked_for_training_is_plain():
    assert dp_sgd_of(Settings()) is None
    assert training_of(Settings()).dp_sgd is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evaluate_clients": 3}, "set -c evaluate-clients=0"),
        ({"codec": "error_feedback(top_k(0.1))"}, "error_feedback remembers what it left out"),
        ({"codec": "ef21(top_k(0.1))"}, "ef21 remembers"),
        ({"codec": "power_sgd(2)"}, None),
        ({"strategy": "adaptive-update"}, "whose clients tell how far their gradients agree"),
        ({"strategy": "two-phase"}, "the curvature of their loss"),
        ({"strategy": "gradient-coding"}, "decodes exact gradients"),
        ({"strategy": "adaptive-batch"}, "set -c grow-every=5"),
        ({"strategy": "adaptive-batch", "own": (("grow-every", 3),)}, None),
        ({"local_noise": "gausian"}, "did you mean 'gaussian'"),
        ({"dp_sgd_noise_multiplier": 1.0}, "without dp-sgd-clipping-norm"),
        ({"dp_sgd_clipping_norm": 1.0, "objective": "simsiam"}, "objective = 'simsiam'"),
        ({"dp_sgd_clipping_norm": 1.0, "autocast": True}, "autocast = True"),
        ({"dp_sgd_clipping_norm": 1.0, "vectorise": "always"}, "vectorise = 'always'"),
        ({"dp_sgd_clipping_norm": 1.0, "vectorise": "never"}, None),
    ],
)
def test_settings_that_would_tell_what_noise_hides_are_refused(given, said):
    settings = {"local_clipping_norm": 1.0, "local_noise_multiplier": 1.0, **given}
    if said is None:
        assert Settings(**settings).local_noise_multiplier == 1.0
        return
    with pytest.raises(ConfigError) as refused:
        Settings(**settings)
    assert said in str(refused.value)


def test_without_noise_less_is_refused():
    """Clipping alone hides nothing that metrics or memories could tell."""
    Settings(local_clipping_norm=1.0, evaluate_clients=2, codec="error_feedback(top_k(0.1))")
    with pytest.raises(ConfigError, match="gradient-coding"):
        Settings(local_clipping_norm=1.0, strategy="gradient-coding")
