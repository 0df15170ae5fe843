"""A run's folder: made once, opened when there, named when not."""

import numpy as np
import pytest

from fedeff.app.run_folder import RunFolder, dated_name, expand_runs
from fedeff.core.errors import ResumeError
from fedeff.core.records import RoundRecord, Summary, append_round


def test_a_new_folder_holds_its_configuration(tmp_path):
    folder = RunFolder.create(tmp_path / "deep" / "run", {"app": "fedeff", "config": {"cohort": 3}})
    assert [file.name for file in folder.path.iterdir()] == ["config.toml"]
    assert RunFolder.open(folder.path).config() == {"app": "fedeff", "config": {"cohort": 3}}
    assert folder.rounds() == ()
    assert folder.summary() is None
    assert not folder.finished


def test_an_existing_folder_is_refused_naming_both_ways_out(tmp_path):
    RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ResumeError, match=r"run exists already; .*--resume --name run.*another --name"):
        RunFolder.create(tmp_path / "run", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ResumeError, match="exists already"):
        RunFolder.create(tmp_path / "other", {})


def test_what_a_kill_left_of_making_a_folder_is_no_run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml.partial").write_text("app = ")
    assert RunFolder.create(path, {"app": "fedeff"}).config() == {"app": "fedeff"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResumeError, match="cannot make"):
        RunFolder.create(tmp_path / "file" / "run", {})


def test_a_missing_run_is_refused_naming_those_there(tmp_path):
    with pytest.raises(ResumeError, match="no runs in"):
        RunFolder.open(tmp_path / "run")
    RunFolder.create(tmp_path / "first", {})
    with pytest.raises(ResumeError, match="runs there: first"):
        RunFolder.open(tmp_path / "run")


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path):
    for name in ("b", "a"):
        RunFolder.create(tmp_path / "sweep" / name, {})
    assert [folder.name for folder in expand_runs(tmp_path / "sweep")] == ["a", "b"]
    assert [folder.name for folder in expand_runs(tmp_path / "sweep" / "b")] == ["b"]
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "none"):
        with pytest.raises(ResumeError, match="is not the folder of a run"):
            expand_runs(tmp_path / missing)


def test_records_and_partition_go_where_the_report_finds_them(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    for number in (1, 2, 3):
        append_round(folder.rounds_file, RoundRecord(number))
    folder.cut_rounds(2)
    assert [record.server_round for record in folder.rounds()] == [1, 2]
    folder.write_partition(np.arange(6).reshape(2, 3))
    assert np.load(folder.path / "partition.npz")["class_counts"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for status, finished in (
        ("failed", False),
        ("interrupted", False),
        ("stopped", True),
        ("finished", True),
    ):
        folder.write_summary(Summary("run", status=status))
        assert folder.finished is finished
    assert sorted(file.name for file in folder.path.iterdir()) == [
        "config.toml",
        "partition.npz",
        "rounds.jsonl",
        "summary.json",
    ]


def test_a_default_name_says_when_and_what():
    assert __import__("re").fullmatch(r"\d{8}-\d{6}-fedavg", dated_name("fedavg"))
