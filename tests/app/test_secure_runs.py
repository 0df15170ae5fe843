"""The built-in app with secure aggregation: settings that go together, a run beside the plain one."""

from typing import Any

import numpy as np
import pytest

from fedeff.app.client import app as client_app
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record
from fedeff.core.records import RoundRecord
from fedeff.simulation import run_simulation


def run(**settings: Any) -> tuple[dict[str, np.ndarray], list[RoundRecord]]:
    records: list[RoundRecord] = []
    given = {"dataset": "digits", "model": "logistic", "cohort": 6, "num-server-rounds": 2}
    config = {**given, **{key.replace("_", "-"): value for key, value in settings.items()}}
    result = run_simulation(
        server_app(on_round=records.append), client_app, 6, run_config=config, engine="inline", seed=0
    )
    return decode_record(result.context.state["model"]), records


def test_a_secure_run_learns_what_the_plain_one_does_and_records_who_was_in_the_sum():
    plain, plain_records = run(strategy="fedlama")
    found, records = run(strategy="fedlama", secure_aggregation="secagg", secure_max_examples=500)
    for key, values in plain.items():
        np.testing.assert_allclose(found[key], values, atol=1e-5)
    assert [record.participants for record in records] == [record.participants for record in plain_records]
    assert [record.arrived for record in records] == [6, 6]
    last = records[-1]
    assert (last.measures["secure-in-sum"], last.measures["secure-lost"]) == (6, 0)
    assert last.measures["secure-train-loss"] == pytest.approx(
        plain_records[-1].train_metrics["train-loss"], abs=1e-4
    )
    assert last.train_metrics == {}  # no client's loss reached the server
    up = last.measures["secure-inputs-bytes"] + last.measures["secure-shares-bytes"]
    assert last.uplink_bytes < up + last.measures["secure-reveal-bytes"] + last.measures["secure-keys-bytes"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "fedbuff"}, "strategy = 'fedbuff', which looks at single replies"),
        ({"evaluate_clients": 3}, "evaluate-clients=0"),
        ({"noise_multiplier": 1.0}, "noise-multiplier above 0"),
        ({"codec": "tern_grad"}, "codec 'tern_grad' is not linear"),
        ({"codec": "error_feedback(half)"}, "codec 'error_feedback' keeps a memory"),
        ({"codec": "raw", "codec_shared_scale": True}, "codec-shared-scale = true"),
        ({"secure_dropout": 0.6}, "at least 0 and below 0"),
    ],
)
def test_settings_that_would_show_what_is_hidden_are_refused(given, said):
    with pytest.raises(ConfigError) as refused:
        Settings(secure_aggregation="lightsecagg", **given)
    assert said in str(refused.value)


def test_a_misspelt_protocol_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'lightsecagg'"):
        Settings(secure_aggregation="lightsecag")


def test_a_client_of_another_protocol_does_not_take_part():
    """A server that asks for another one than the client was set to gets errors."""
    from fedeff.app.secure import secure_mods

    assert secure_mods(Settings()) == ()
    (mod,) = secure_mods(Settings(secure_aggregation="secagg+"))
    assert mod.protocols == ("secagg+",)  # type: ignore[attr-defined]
