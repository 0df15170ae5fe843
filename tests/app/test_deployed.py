"""A deployed run: its folder, its resumption to the same bits, and clients that die or come back."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from apps.loopback import LoopbackGrid
from flwr.app import Context, RecordDict

from fedeff.app.client import ConfiguredClientApp
from fedeff.app.deployed import server_process, settings_of_run
from fedeff.app.run import Plan, continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.grids import TapGrid, Taps
from fedeff.grids.tap import Listener

CLIENTS = 3
SETTINGS = Settings(
    dataset="digits",
    model="logistic",
    cohort=CLIENTS,
    num_server_rounds=3,
    local_steps=2,
    vectorise="never",
    wait_for_clients_s=0.2,
)


@pytest.fixture(autouse=True)
def _deployed(monkeypatch):
    """Every Grid here is a SuperLink's, and nothing is drawn."""
    monkeypatch.setattr("fedeff.app.deployed.is_deployed", lambda grid: True)
    monkeypatch.setattr("fedeff.app.run_folder.RunFolder.write_report", lambda folder: folder.report_file)


def deployed(folder, settings=SETTINGS, before=None, taps=None):
    """Run to the end; `before(record, grid)` is told of each round. The run's folder."""
    settings = replace(settings, run_folder=str(folder))
    grid = LoopbackGrid(ConfiguredClientApp(), CLIENTS, settings.run_config())
    app = server_app(on_round=lambda record: before(record, grid) if before else None, taps=taps)
    app(grid, Context(grid.run_id, 1, {}, RecordDict(), settings.run_config()))
    return RunFolder(folder)


def test_killed_and_restarted_with_everything_again_and_again(tmp_path):
    """Bit for bit what the inline engine gives, with other node ids each time: see killed_deployment.py."""
    script = Path(__file__).with_name("killed_deployment.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "24"],
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 3, "differing": [], "rounds": 4}


class _Counting(Listener):
    """How many arrays the records of messages and replies have that travel."""

    def __init__(self) -> None:
        self.sent, self.answers = set(), set()

    def asking(self, messages):
        self.sent |= {len(record) for one in messages for record in one.content.array_records.values()}

    def answered(self, sent, reply):
        self.answers |= {len(record) for record in reply.content.array_records.values()}

    def summed(self, sent, total):
        raise AssertionError("nothing is summed here")


@pytest.mark.parametrize("settings", [{}, {"codec": "tern_grad"}, {"codec": "half", "down_codec": "half"}])
def test_all_arrays_of_a_record_travel_as_one(tmp_path, settings):
    """A model of one layer has two; where only replies are coded models go as they are."""
    seen = _Counting()
    deployed(
        tmp_path / "run", replace(SETTINGS, **settings), taps=Taps(wire=lambda grid: TapGrid(grid, seen))
    )
    assert seen.answers == {1}
    assert seen.sent == ({2} if settings == {"codec": "tern_grad"} else {1})


def test_the_folder_is_that_of_a_simulated_run(tmp_path):
    folder = deployed(tmp_path / "deployed")
    whole = simulate(Plan(SETTINGS, Runtime(clients=CLIENTS, engine="inline")), tmp_path / "inline")
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in whole.path.iterdir()}
    for checkpoint in whole.checkpoints.iterdir():
        assert (folder.checkpoints / checkpoint.name).read_bytes() == checkpoint.read_bytes()
    summary = folder.summary()
    assert (summary.status, summary.engine, summary.clients) == ("finished", "deployment", CLIENTS)
    assert settings_of_run(folder).run_folder == str(folder.path)


def test_a_client_that_dies_is_missed_and_takes_part_again_when_it_is_back(tmp_path):
    def before(record, grid):
        if record.server_round == 1:
            grid.dead = {1}  # connected still, and silent
        if record.server_round == 2:
            grid.dead, grid.gone = set(), {1}
        if record.server_round == 3:
            grid.gone = set()
            grid.restart(1)  # under another id

    records = deployed(tmp_path / "run", replace(SETTINGS, num_server_rounds=5), before).rounds()
    assert [(r.cohort, r.arrived, r.missing) for r in records][:4] == [
        (3, 3, 0),
        (3, 2, 1),
        (2, 2, 0),
        (2, 2, 0),
    ]
    assert records[4].participants == (0, 1, 2)
    assert records[1].participants == (0, 2)


def test_a_failed_run_says_so_and_is_gone_on_with(tmp_path):
    def fail(record, grid):
        if record.server_round == 2:
            raise ConfigError("no\nmore")

    with pytest.raises(ConfigError):
        deployed(tmp_path / "run", before=fail)
    folder = RunFolder(tmp_path / "run")
    assert (folder.summary().status, folder.summary().reason) == ("failed", "no more")
    assert server_process(folder) is None
    working = []
    deployed(
        tmp_path / "run", before=lambda record, grid: working.append(server_process(folder).is_running())
    )
    assert working == [True, True]
    assert folder.summary().status == "finished"
    whole = deployed(tmp_path / "whole")
    assert (folder.checkpoints / "round-000003.safetensors").read_bytes() == (
        whole.checkpoints / "round-000003.safetensors"
    ).read_bytes()


def test_another_run_in_the_folder_is_refused(tmp_path):
    deployed(tmp_path / "run")
    with pytest.raises(ResumeError, match="holds a run with seed = 0, not 1"):
        deployed(tmp_path / "run", replace(SETTINGS, seed=1))
    with pytest.raises(ConfigError, match="is not absolute"):
        deployed(Path("run"))
    with pytest.raises(ResumeError, match="fedeff deploy run --resume run"):
        continue_run(RunFolder(tmp_path / "run"))
    simulated = simulate(Plan(SETTINGS, Runtime(clients=CLIENTS, engine="inline")), tmp_path / "simulated")
    with pytest.raises(ResumeError, match="fedeff simulate --resume"):
        settings_of_run(simulated)


def test_two_server_apps_cannot_write_one_run(tmp_path):
    def again(record, grid):
        with pytest.raises(ResumeError, match="another process"):
            deployed(tmp_path / "run")

    deployed(tmp_path / "run", before=again)


def test_without_a_folder_nothing_is_kept_and_elsewhere_one_is_refused(tmp_path, monkeypatch):
    grid = LoopbackGrid(ConfiguredClientApp(), CLIENTS, SETTINGS.run_config())
    context = Context(grid.run_id, 1, {}, RecordDict(), SETTINGS.run_config())
    server_app(on_round=lambda record: None)(grid, context)
    assert "model" in context.state
    monkeypatch.setattr("fedeff.app.deployed.is_deployed", lambda grid: False)
    with pytest.raises(ConfigError, match="run-folder is for runs on a SuperLink"):
        deployed(tmp_path / "run")
    with pytest.raises(ConfigError, match="run-folder is for fedeff deploy run"):
        Plan(replace(SETTINGS, run_folder="/x"), Runtime(clients=CLIENTS, engine="inline")).checked()
