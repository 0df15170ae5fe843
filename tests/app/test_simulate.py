"""Whole small runs: what a plan refuses, what a run leaves, sweeps, virtual time, Flower's loop."""

import numpy as np
import pytest
from flwr.serverapp import ServerApp

from fedeff.app.checkpoints import latest_standing
from fedeff.app.client import app as client
from fedeff.app.run import Plan, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.app.sweep import Sweep, grid
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.layers import decode_record
from fedeff.simulation import run_simulation


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cohort": 13}, "cohort = 13, but there are 12 clients"),
        ({"evaluate_clients": 13}, "evaluate-clients = 13"),
        ({"clients": 1443}, "1442"),
        ({"optimizer": "momentum"}, "0.9"),
        ({"model": "gru"}, "cannot learn"),
        ({"partition": "natural"}, "needs.* groups"),
        ({"device": "gpu"}, "no torch device"),
        ({"delays": "pareto:0"}, "Pareto"),
    ],
)
def test_what_cannot_run_is_refused_before_it_begins(tiny, changes, said):
    with pytest.raises(ConfigError, match=said):
        tiny(**changes).checked()


@pytest.mark.usefixtures("no_report")
def test_a_run_learns_and_leaves_a_record(tmp_path, tiny):
    plan, notices = tiny(num_server_rounds=20, evaluate_clients=5).checked()
    assert notices == ()
    folder = simulate(plan, tmp_path / "run")
    summary, rounds = folder.summary(), folder.rounds()
    assert (summary.status, summary.rounds, summary.clients) == ("finished", 20, 12)
    assert summary.accuracy > 0.8
    assert (summary.strategy, summary.engine, summary.seed) == ("fedavg", "inline", 0)
    assert [record.server_round for record in rounds] == list(range(1, 21))
    assert all((record.arrived, record.evaluate_arrived) == (4, 5) for record in rounds)
    # 650 float32 in two `.npy` files, to and from 4 clients, and down to 5 that evaluate
    model_bytes = 650 * 4 + 2 * 128
    assert rounds[0].uplink_bytes == 4 * model_bytes
    assert rounds[0].downlink_bytes == 9 * model_bytes
    assert rounds[0].virtual_s is None
    assert rounds[0].worst_tenth["eval-accuracy"] <= rounds[0].evaluate_metrics["eval-accuracy"]
    assert Plan.of_run(folder) == plan
    counts = np.load(folder.path / "partition.npz")["class_counts"]
    assert counts.shape == (12, 10)
    assert counts.sum() == 1442


@pytest.mark.usefixtures("no_report")
def test_equal_plans_end_in_equal_bytes_and_other_seeds_in_others(tmp_path, tiny):
    def last(name, **changes):
        folder = simulate(tiny(**changes), tmp_path / name)
        return (folder.checkpoints / "round-000003.safetensors").read_bytes()

    assert last("a") == last("b")
    assert last("a-seed", seed=1) != last("b-seed", seed=2)


@pytest.mark.usefixtures("no_report")
def test_time_is_virtual_where_delays_are_given(tmp_path, tiny):
    folder = simulate(tiny(delays="pareto:1.2"), tmp_path / "run")
    times = [record.virtual_s_total for record in folder.rounds()]
    assert times[0] > 0
    assert times == sorted(times)


@pytest.mark.usefixtures("no_report")
def test_a_client_that_is_too_slow_for_the_round_is_missing(tmp_path, tiny):
    rounds = simulate(tiny(delays="pareto:1.2", round_timeout_s=0.2), tmp_path / "cut").rounds()
    assert max(record.virtual_s for record in rounds) == pytest.approx(0.2)
    assert 0 < sum(record.missing for record in rounds) < sum(record.cohort for record in rounds)
    patient = simulate(tiny(delays="pareto:1.2", round_timeout_s=0), tmp_path / "patient").rounds()
    assert sum(record.missing for record in patient) == 0
    assert max(record.virtual_s for record in patient) > 0.3


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("strategy", ["delayed", "fedbuff"])
def test_what_is_under_way_when_a_run_ends_is_missing_in_its_record(tmp_path, tiny, strategy):
    folder = simulate(tiny(strategy=strategy, buffer=2, delays="pareto:1.2"), tmp_path / "run")
    rounds = folder.rounds()
    # A cohort of 4 in each of 3 rounds; or 4 first, and then 2 for each 2 that have come.
    asked = {"delayed": 3 * 4, "fedbuff": 4 + 2 * 2}[strategy]
    assert sum(record.arrived + record.missing for record in rounds) == asked
    assert [record.missing for record in rounds][:-1] == [0, 0]
    assert folder.summary().missing == rounds[-1].missing > 0


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("strategy", ["delayed", "fedbuff"])
def test_the_rounds_virtual_seconds_add_up_where_waits_are_in_vain(tmp_path, tiny, strategy):
    changes = {"strategy": strategy, "buffer": 4, "evaluate_clients": 3, "num_server_rounds": 6}
    folder = simulate(tiny(delays="pareto:1.2", round_timeout_s=0.05, **changes), tmp_path / "run")
    last = latest_standing(folder.checkpoints, 6)
    assert folder.rounds()[-1].virtual_s_total == pytest.approx(last.virtual_s)
    assert max(record.virtual_s for record in folder.rounds()) <= 0.1 + 1e-9  # it trains, then evaluates


@pytest.mark.usefixtures("no_report")
def test_clients_without_test_rows_say_nothing_in_an_evaluation(tmp_path, tiny):
    """More clients than test rows: some have none."""
    changes = {"partition": "iid", "evaluate_clients": 400, "num_server_rounds": 1}
    (record,) = simulate(tiny(clients=400, **changes), tmp_path / "run").rounds()
    assert (record.evaluate_arrived, record.evaluate_errors) == (400, 0)
    assert record.evaluate_metrics["eval-accuracy"] > 0
    assert record.evaluate_metrics["eval-loss"] > 0


def test_a_report_ends_the_run(tmp_path, tiny):
    folder = simulate(tiny(), tmp_path / "run")
    assert "<html" in folder.report_file.read_text()


def test_without_a_folder_nothing_is_written_and_the_model_is_left(tmp_path, tiny, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "flwr"):
        result = run_simulation(
            server_app(), client, 12, run_config=tiny().settings.run_config(), engine="inline"
        )
    assert list(tmp_path.iterdir()) == []
    assert {key: array.shape for key, array in decode_record(result.context.state["model"]).items()} == {
        "fc.weight": (10, 64),
        "fc.bias": (10,),
    }


def test_the_module_holds_what_flower_loads():
    from fedeff.app.server import app

    assert isinstance(app, ServerApp)


def test_a_grid_names_each_run_by_what_varies():
    runs = grid(Settings(), {"learning-rate": (0.1, 0.2), "cohort": (5,), "partition": ("iid", "shards:2")})
    assert list(runs) == [
        "learning-rate-0.1_partition-iid",
        "learning-rate-0.1_partition-shards-2",
        "learning-rate-0.2_partition-iid",
        "learning-rate-0.2_partition-shards-2",
    ]
    assert {settings.cohort for settings in runs.values()} == {5}
    assert runs["learning-rate-0.2_partition-iid"].learning_rate == 0.2


def test_seeds_count_from_the_given_one():
    assert [settings.seed for settings in grid(Settings(), {"seed": (4,)}, seeds=3).values()] == [4, 5, 6]
    assert list(grid(Settings(), {}, seeds=1)) == ["fedavg"]
    with pytest.raises(ConfigError, match="one of the two"):
        grid(Settings(), {"seed": (1, 2)}, seeds=2)
    with pytest.raises(ConfigError, match="--seeds 0"):
        grid(Settings(), {}, seeds=0)
    with pytest.raises(ConfigError, match="did you mean 'cohort'"):
        grid(Settings(), {"cohrt": (1, 2)})


def test_a_sweep_is_written_down(tmp_path):
    runs = grid(Settings(dataset="digits"), {"strategy": ("fedavg", "fedlama")})
    sweep = Sweep.create(tmp_path / "sweep", Runtime(clients=7, engine="inline"), runs)
    assert Sweep.open(sweep.path) == sweep
    assert sweep.folders() == []
    RunFolder.create(sweep.path / "fedlama", {})
    assert sweep.folder("fedavg") is None
    assert sweep.folders() == [sweep.path / "fedlama"]
    with pytest.raises(ResumeError, match="exists already"):
        Sweep.create(sweep.path, Runtime(), runs)
    with pytest.raises(ResumeError, match=r"no sweep.toml"):
        Sweep.open(tmp_path)
