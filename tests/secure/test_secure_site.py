"""Secure sums on a real SuperLink: the same bits as on the inline engine."""

import pytest
import torch
from apps.killing import left_by

from fedeff.app.run import Plan, simulate
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.app.site_runs import run_new_on_site
from fedeff.deployment import running

CLIENTS = 4


def secure(protocol: str, strategy: str, codec: str, rounds: int) -> Settings:
    return Settings(
        dataset="digits",
        model="mlp",
        strategy=strategy,
        cohort=CLIENTS,
        num_server_rounds=rounds,
        secure_aggregation=protocol,
        secure_max_examples=500,
        codec=codec,
        wait_for_clients_s=240.0,
        round_timeout_s=240.0,
    )


@pytest.mark.slow
def test_secure_sums_on_a_site_are_those_of_the_inline_engine(tmp_path):
    """LightSecAgg under a strategy whose clients keep layers; SecAgg+ of coded values."""
    torch.set_num_threads(1)
    runs = {
        "light": secure("lightsecagg", "fedlama", "", 3),
        "plus": secure("secagg+", "fedavg", "half", 1),
    }
    with running(tmp_path / "site", CLIENTS) as site:
        for name, settings in runs.items():
            run_new_on_site(site, settings, tmp_path / "site-runs" / name, lambda record: None, 900)
    for name, settings in runs.items():
        inline = Plan(settings, Runtime(clients=CLIENTS, engine="inline"))
        simulate(inline, tmp_path / "inline-runs" / name)
        here, there = (left_by(tmp_path / kind / name) for kind in ("site-runs", "inline-runs"))
        assert here[0] == there[0], name
        assert [record["arrived"] for record in here[1]] == [CLIENTS] * settings.num_server_rounds
