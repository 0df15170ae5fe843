"""Runs on a site, without one: what is written for Flower, what is watched, what is said of a failure."""

import os
import tomllib

import psutil
import pytest

from fedeff.app import site_runs
from fedeff.app.deployed import server_process
from fedeff.app.run_folder import RunFolder
from fedeff.app.settings import Settings
from fedeff.app.site_runs import continue_on_site, run_new_on_site, written_app
from fedeff.cli.main import main
from fedeff.core.errors import DeploymentError, EngineError, ResumeError
from fedeff.core.records import RoundRecord, Summary, append_round
from fedeff.deployment import Site, runs

SETTINGS = Settings(dataset="digits", model="logistic", cohort=2, num_server_rounds=2)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "site", clients=2)
    made.write()
    return made


@pytest.fixture
def ran(monkeypatch):
    """What a run does while it is watched: a function of its folder and the watch; set it."""
    does = {}

    def run_on_site(site, app, *, look, timeout_s=None):
        config = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
        does["it"](RunFolder(site.folder.parent / "runs" / "one"), look, config)

    monkeypatch.setattr(site_runs, "run_on_site", run_on_site)
    return does


def begun(folder, config):
    RunFolder.create(folder.path, {"app": "fedeff", "deployment": {"clients": 2}, "config": config})


def test_the_written_app_is_the_built_in_one_with_the_settings():
    with written_app(SETTINGS) as app:
        about = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
        assert Settings.from_run_config(about["config"]) == SETTINGS
        for name in ("server", "client"):
            assert about["components"][f"{name}app"] == f"fedeff_app.{name}:app"
            assert f"\napp = {name}.app\n" in (app / "fedeff_app" / f"{name}.py").read_text()
    assert not app.exists()


def test_rounds_are_told_as_they_come_and_again_where_a_resumed_run_repeats_them(site, ran, tmp_path):
    told = []

    def it(folder, look, config):
        assert look() == ""
        begun(folder, config)
        for server_round in (1, 2):
            append_round(folder.rounds_file, RoundRecord(server_round))
            assert look() == ""
        folder.cut_rounds(1)
        assert look() == ""
        append_round(folder.rounds_file, RoundRecord(2))
        assert look() == ""

    ran["it"] = it
    path = tmp_path / "runs" / "one"
    run_new_on_site(site, SETTINGS, path, lambda record: told.append(record.server_round))
    assert told == [1, 2, 2]
    with pytest.raises(ResumeError, match="continue it with --resume one"):
        run_new_on_site(site, SETTINGS, path, told.append)
    ran["it"] = lambda folder, look, config: look()
    continue_on_site(site, RunFolder(path), told.append)
    assert told == [1, 2, 2]  # what was on record before is not told again


def test_a_server_app_that_was_killed_is_noticed(site, ran, tmp_path):
    process = psutil.Popen(["sleep", "60"])

    def it(folder, look, config):
        begun(folder, config)
        (folder.path / "server.pid").write_text(f"{process.pid} {process.create_time()!r}\n")
        assert server_process(folder).pid == process.pid
        assert look() == ""
        process.kill()
        process.wait()
        assert look() == f"the ServerApp (pid {process.pid}) ended without a word; it was killed"
        folder.write_summary(Summary("one", status="failed", reason="it was too much"))
        assert look() == ""  # it has said why
        raise EngineError("run 7 is finished:failed")

    ran["it"] = it
    with pytest.raises(EngineError, match=r"^it was too much; run 7 is finished:failed$"):
        run_new_on_site(site, SETTINGS, tmp_path / "runs" / "one", lambda record: None)


def test_a_pid_of_somebody_else_is_no_server_app(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    for text in ("", "x y", f"{os.getpid()} 1.0", "999999999 1.0"):
        (folder.path / "server.pid").write_text(text)
        assert server_process(folder) is None


class Superlink:
    """Answers `flwr` commands by a list of statuses."""

    def __init__(self, *statuses):
        self.statuses, self.stopped = list(statuses), []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def start_run(self, app, *config):
        return "7"

    def run_status(self, run_id):
        return (self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]), "N/A"

    def stop_run(self, run_id):
        self.stopped.append(run_id)


@pytest.fixture
def link(monkeypatch):
    def make(*statuses):
        made = Superlink(*statuses)
        monkeypatch.setattr(runs, "flwr", lambda site: made)
        monkeypatch.setattr(runs, "answers", lambda site: bool(statuses))
        monkeypatch.setattr(runs, "_last_words", lambda site, run_id: "the last line")
        monkeypatch.setattr(runs, "_ASK_S", 0.0)
        monkeypatch.setattr(runs, "_LOOK_S", 0.0)
        return made

    return make


def test_only_a_completed_run_ends_well(site, link, tmp_path):
    made = link("pending", "running", "finished:completed")
    runs.run_on_site(site, tmp_path)
    assert made.stopped == []
    made = link("running", "finished:failed")
    with pytest.raises(EngineError, match="run 7 is finished:failed N/A; it said: the last line"):
        runs.run_on_site(site, tmp_path)
    assert made.stopped == []


def test_a_run_that_is_not_waited_for_is_stopped(site, link, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    made = link("running")
    with pytest.raises(KeyboardInterrupt):
        runs.run_on_site(site, tmp_path, look=interrupt)
    with pytest.raises(EngineError, match="has not ended in 0 s and was stopped"):
        runs.run_on_site(site, tmp_path, timeout_s=0)
    with pytest.raises(EngineError, match="run 7: it was killed"):
        runs.run_on_site(site, tmp_path, look=lambda: "it was killed")
    assert made.stopped == ["7"] * 3


def test_no_superlink_is_said(site, link, tmp_path):
    link()
    with pytest.raises(DeploymentError, match=r"no SuperLink answers on .*; start it with: fedeff deploy up"):
        runs.run_on_site(site, tmp_path)


def test_the_command_ends_with_a_status(site, ran, tmp_path, capsys):
    place = ["--site", str(site.folder), "--out", str(tmp_path / "runs")]

    def fail(folder, look, config):
        raise EngineError("run 7 is finished:failed")

    ran["it"] = fail
    assert main(["deploy", "run", *place, "--name", "one", "-c", "cohort=2"]) == 1
    assert "run 7 is finished:failed" in capsys.readouterr().err
    assert main(["deploy", "run", *place, "-c", "cohort=3"]) == 2  # there are two clients
    assert main(["deploy", "run", *place, "--resume", "none"]) == 2
    assert main(["deploy", "run", *place, "--resume", "one", "--name", "two"]) == 2

    def interrupt(folder, look, config):
        raise KeyboardInterrupt

    ran["it"] = interrupt
    assert main(["deploy", "run", *place, "--name", "two", "-c", "cohort=2"]) == 130
    assert "fedeff deploy run --resume two --out" in capsys.readouterr().err
