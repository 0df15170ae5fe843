"""Sealed files: what was written comes back, and nothing that was changed, torn, moved or another's does."""

import os
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import DamagedStateError, StateError
from fedeff.core.sealed import SealingKey, read_sealed, write_sealed

ABOUT = "the state of partition 3"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sealed") / "file"


@settings(max_examples=30)
@given(content=st.binary(max_size=200), about=st.text(max_size=20))
def test_what_was_written_comes_back(place, content, about):
    key = SealingKey(secrets.token_bytes(32))
    write_sealed(place, content, key, about)
    assert read_sealed(place, key, about) == content
    assert place.stat().st_mode & 0o777 == 0o600
    assert len(content) < 16 or content not in place.read_bytes()[36:]  # behind the head


def test_a_change_of_any_byte_and_any_end_are_seen(tmp_path):
    key, path = SealingKey(secrets.token_bytes(32)), tmp_path / "file"
    write_sealed(path, b"content", key, ABOUT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(StateError):  # in the key's name it reads as another key
            read_sealed(path, key, ABOUT)
        path.write_bytes(whole[:position])
        with pytest.raises(StateError):
            read_sealed(path, key, ABOUT)


def test_a_file_of_another_or_under_another_key_is_told_apart(tmp_path):
    key, path = SealingKey(secrets.token_bytes(32)), tmp_path / "file"
    write_sealed(path, b"content", key, ABOUT)
    with pytest.raises(DamagedStateError, match="is not the state of partition 4"):
        read_sealed(path, key, "the state of partition 4")
    with pytest.raises(StateError, match="another key") as caught:
        read_sealed(path, SealingKey(secrets.token_bytes(32)), ABOUT)
    assert not isinstance(caught.value, DamagedStateError)  # nothing is wrong with the file: it must stay
    with pytest.raises(StateError, match="cannot read"):
        read_sealed(tmp_path / "none", key, ABOUT)


def test_equal_contents_are_sealed_differently(tmp_path):
    key = SealingKey(secrets.token_bytes(32))
    for name in "ab":
        write_sealed(tmp_path / name, b"content", key, ABOUT)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, fails):
    key, path = SealingKey(secrets.token_bytes(32)), tmp_path / "file"
    write_sealed(path, b"before", key, ABOUT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (Path, "replace")), full)
    with pytest.raises(StateError, match="No space left on device; free some space"):
        write_sealed(path, b"after", key, ABOUT)
    monkeypatch.undo()
    assert read_sealed(path, key, ABOUT) == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("0" * 64, 0o640, "mode 0640; nobody else may read it"),
        ("0" * 64, 0o604, "mode 0604"),
        ("0" * 63, 0o600, "does not hold 64 hexadecimal digits"),
        ("x" * 64, 0o600, "does not hold 64 hexadecimal digits"),
    ],
)
def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path, text, mode, message):
    path = tmp_path / "state.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(StateError, match=message):
        SealingKey.read(path)


def test_a_key_is_read_and_never_shown(tmp_path):
    path = tmp_path / "state.key"
    path.touch(mode=0o600)
    path.write_text("aB" * 32 + "\n")
    key = SealingKey.read(path)
    assert key.secret == bytes.fromhex("ab" * 32)
    assert "ab" * 4 not in repr(key).lower()
    with pytest.raises(StateError, match="cannot read the key"):
        SealingKey.read(tmp_path / "none")
