import logging
import os
from pathlib import Path

import numpy as np
import pytest

from fedeff.data import cache_folder
from fedeff.data.cache import file_stamp, mapped_arrays

ARRAYS = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}


class Build:
    """Counts how often it had to build."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {key: array.copy() for key, array in ARRAYS.items()}


def entries(cache):
    return sorted((cache / "things").iterdir())


def test_second_opening_maps_what_the_first_built(empty_cache):
    build = Build()
    for _ in range(2):
        arrays = mapped_arrays("things", ["1"], build)
        for key, wanted in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], wanted)
            assert type(arrays[key]) is np.ndarray
            assert isinstance(arrays[key].base, np.memmap)
            assert not arrays[key].flags.writeable
    assert build.calls == 1


def test_other_stamps_are_another_entry(empty_cache):
    build = Build()
    for stamps in (["1"], ["2"], ["1", "2"], ["12"]):
        mapped_arrays("things", stamps, build)
    assert build.calls == len(entries(empty_cache)) == 4


def test_entry_appears_whole_and_leaves_nothing_else(empty_cache):
    mapped_arrays("things", ["1"], Build())
    (entry,) = entries(empty_cache)
    assert sorted(path.name for path in entry.iterdir()) == ["a.npy", "b.npy", "index.json"]


@pytest.mark.parametrize("damage", ["truncate", "change", "delete", "index"])
def test_damaged_entry_is_built_again(empty_cache, damage):
    build = Build()
    mapped_arrays("things", ["1"], build)
    (entry,) = entries(empty_cache)
    file = entry / "a.npy"
    content = file.read_bytes()
    match damage:
        case "truncate":
            file.write_bytes(content[:-8])
        case "change":
            file.write_bytes(content[:-1] + b"\x07")
            os.utime(file, (1, 1))
        case "delete":
            file.unlink()
        case "index":
            (entry / "index.json").write_text('{"a":')
    np.testing.assert_array_equal(mapped_arrays("things", ["1"], build)["a"], ARRAYS["a"])
    assert build.calls == 2
    mapped_arrays("things", ["1"], build)
    assert build.calls == 2


def test_cache_that_cannot_be_made_falls_back_to_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        arrays = mapped_arrays("things", ["1"], Build())
    np.testing.assert_array_equal(arrays["a"], ARRAYS["a"])
    assert "each process keeps its own copy of things" in caplog.text


def test_full_disk_falls_back_to_memory_and_leaves_nothing(empty_cache, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedeff.data.cache.np.save", full)
    arrays = mapped_arrays("things", ["1"], Build())
    np.testing.assert_array_equal(arrays["a"], ARRAYS["a"])
    assert entries(empty_cache) == []
    assert "No space left" in caplog.text


def test_faster_process_wins_a_race(empty_cache):
    def build_late():
        mapped_arrays("things", ["1"], Build())  # another process, done meanwhile
        return Build()()

    np.testing.assert_array_equal(mapped_arrays("things", ["1"], build_late)["a"], ARRAYS["a"])
    assert len(entries(empty_cache)) == 1


def test_stamp_changes_with_the_file(tmp_path):
    file = tmp_path / "f"
    file.write_text("one")
    first = file_stamp(file)
    assert file_stamp(file) == first
    file.write_text("three")
    second = file_stamp(file)
    os.utime(file, (1, 1))
    assert len({first, second, file_stamp(file)}) == 3


def test_cache_folder_follows_the_xdg_rule(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "fedeff"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == Path(tmp_path / "x" / "fedeff")
