"""What is audited: settings as they are given, a run with its weights, an app's folder."""

from pathlib import Path

import pytest

from fedeff.app import Plan, Runtime, Settings, simulate
from fedeff.audit.target import CLIENTS, target_of
from fedeff.core.errors import AppError, AuditError, ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_settings_keep_all_but_a_cohort_that_cannot_be() -> None:
    target = target_of(Settings(dataset="digits", batch_size=3), clients=20, overrides={"seed": 4})
    assert target.settings == Settings(dataset="digits", batch_size=3, seed=4, cohort=20)
    assert target_of(None).clients == CLIENTS
    assert target_of(ROOT).settings.complete() == Settings().complete()


def test_the_cohort_of_a_secure_sum_is_what_protects_and_stays() -> None:
    with pytest.raises(ConfigError, match="cohort = 100, but there are 20 clients"):
        target_of(Settings(secure_aggregation="secagg"), clients=20)


def test_a_run_is_audited_with_its_own_weights_and_clients(tmp_path: Path) -> None:
    settings = Settings(dataset="digits", model="logistic", cohort=4, num_server_rounds=1)
    plan, _ = Plan(settings, Runtime(clients=10, engine="inline")).checked()
    folder = simulate(plan, tmp_path / "run")
    target = target_of(folder.path, overrides={"batch-size": 2})
    assert target.clients == 10
    assert target.settings.initial_weights == str(folder.path)
    assert (target.settings.model, target.settings.batch_size) == ("logistic", 2)


def test_what_is_neither_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        target_of("nowhere")
    with pytest.raises(AppError, match="is not a Flower app"):
        target_of(ROOT / "docs")
    with pytest.raises(AuditError, match="--network module:callable"):
        target_of(ROOT / "examples" / "quickstart-flower")
