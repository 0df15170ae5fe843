"""A run that is killed anywhere and resumed ends in the same bytes as one that is not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedeff.app.run import continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.core.errors import EngineError, ResumeError
from fedeff.core.state import StateStore

pytestmark = pytest.mark.usefixtures("no_report")


def killed(folder: Path, spacing: int) -> dict:
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(spacing)],
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_before_any_operation_on_its_folder(tmp_path):
    found = killed(tmp_path, 0)
    # Config, partition, record, three rounds of one line, one checkpoint, the states of two clients and
    # their list each, summary.
    assert found["kills"] == 35
    assert found["rounds"] == 3
    assert found["differing"] == []


def test_killed_again_and_again(tmp_path):
    found = killed(tmp_path, 16)
    assert found["kills"] >= 2
    assert found["differing"] == []


def left_by(folder):
    kept = {file.name: file.read_bytes() for file in folder.checkpoints.iterdir()}
    return kept, [(r.server_round, r.accuracy, r.uplink_bytes_total, r.participants) for r in folder.rounds()]


def test_ctrl_c_and_failures_are_on_record_and_resumed(tmp_path, tiny):
    plan = tiny()
    whole = simulate(plan, tmp_path / "whole")
    for error, status in ((KeyboardInterrupt(), "interrupted"), (EngineError("no\nmore"), "failed")):

        def stop(record, error=error):
            if record.server_round == 2:
                raise error

        path = tmp_path / status
        with pytest.raises(type(error)):
            simulate(plan, path, stop)
        folder = RunFolder.open(path)
        assert (folder.summary().status, folder.summary().rounds) == (status, 2)
        assert not folder.finished
        continue_run(folder)
        assert folder.summary().status == "finished"
        assert left_by(folder) == left_by(whole)
    assert RunFolder.open(tmp_path / "failed").summary().reason == ""


def test_a_torn_line_and_a_damaged_checkpoint_cost_a_round_each(tmp_path, tiny):
    whole = simulate(tiny(), tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "torn")
    torn = RunFolder.open(tmp_path / "torn")
    (torn.path / "summary.json").unlink()
    torn.rounds_file.write_bytes(torn.rounds_file.read_bytes()[:-40])
    newest = torn.checkpoints / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    repeated = []
    continue_run(torn, lambda record: repeated.append(record.server_round))
    assert repeated == [2, 3]
    assert left_by(torn) == left_by(whole)


def test_a_finished_run_is_left_as_it_is(tmp_path, tiny):
    folder = simulate(tiny(), tmp_path / "run")
    before = left_by(folder), folder.summary()
    continue_run(folder, lambda record: pytest.fail("a finished run went on"))
    assert (left_by(folder), folder.summary()) == before


def test_a_kill_between_the_last_round_and_the_report_is_mended(tmp_path, tiny, monkeypatch):
    """Then `summary.json` says finished, but clients' states are still there and the report is not."""

    def killed(store):
        raise KeyboardInterrupt

    def written(folder):
        folder.report_file.write_text("the report")
        return folder.report_file

    monkeypatch.setattr(RunFolder, "write_report", written)
    plan = tiny(strategy="fedlama", model="mlp")
    whole = simulate(plan, tmp_path / "whole")
    assert not whole.client_states.exists()
    with monkeypatch.context() as kill:
        kill.setattr(StateStore, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            simulate(plan, tmp_path / "killed")
    folder = RunFolder.open(tmp_path / "killed")
    assert folder.finished
    assert folder.client_states.exists()
    assert not folder.report_file.exists()
    continue_run(folder, lambda record: pytest.fail("a finished run went on"))
    assert folder.report_file.read_text() == "the report"
    assert not folder.client_states.exists()
    assert left_by(folder) == left_by(whole)


def test_a_run_stopped_at_its_target_is_finished(tmp_path, tiny):
    folder = simulate(tiny(target_accuracy=0.05, num_server_rounds=50), tmp_path / "run")
    assert (folder.summary().status, folder.summary().rounds) == ("stopped", 1)
    assert folder.summary().reason == "reached the target accuracy 0.05 in round 1"
    (folder.path / "summary.json").unlink()
    continue_run(folder, lambda record: pytest.fail("went on behind its target"))
    assert folder.summary().status == "stopped"


def test_two_processes_cannot_write_one_run(tmp_path, tiny):
    folder = simulate(tiny(), tmp_path / "run")
    (folder.path / "summary.json").unlink()
    with folder.locked(), pytest.raises(ResumeError, match="another process"):
        continue_run(folder)


def test_a_run_of_a_foreign_app_is_refused_with_the_reason(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"app": "/some/app"})
    with pytest.raises(ResumeError, match="starts at round 1"):
        continue_run(folder)
