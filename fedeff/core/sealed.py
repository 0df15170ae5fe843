"""Encrypted files: written whole or not at all, and read only where nothing about them was changed.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits for each write; what a file is and whose is
authenticated with it, so that a file cannot take another's place. Good for 2**32 writes a key. It does not
tell an old copy of a file from the newest one: who can write to the folder can put one back.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedeff.core.errors import DamagedStateError, StateError

__all__ = ["SealingKey", "read_sealed", "write_sealed"]

_MAGIC = b"fedeff sealed 1\n"  # ends in the format's version
_NAME_BYTES, _NONCE_BYTES, _TAG_BYTES = 8, 12, 16
_HEAD_BYTES = len(_MAGIC) + _NAME_BYTES + _NONCE_BYTES
_OTHERS = 0o077


@dataclass(frozen=True)
class SealingKey:
    """A key of 256 bits; it is never shown."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.secret) == 32

    @property
    def name(self) -> bytes:
        """8 bytes by which a file says which key it was sealed with; they tell nothing else of it."""
        return hashlib.sha256(b"fedeff sealing key\n" + self.secret).digest()[:_NAME_BYTES]

    @classmethod
    def read(cls, path: Path) -> "SealingKey":
        """The key in a file of 64 hexadecimal digits, which nobody but its owner may read.

        Raises:
            StateError: if the file is not there, may be read by others, or holds something else.
        """
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise StateError(f"cannot read the key {path}: {error.strerror}") from error
        except UnicodeDecodeError:
            text = ""
        if mode & _OTHERS:
            raise StateError(
                f"the state key {path} has mode {mode & 0o777:04o}; nobody else may read it: chmod 600"
            )
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
            raise StateError(
                f"the state key {path} does not hold 64 hexadecimal digits; give the node's state.key"
            )
        return cls(bytes.fromhex(text))


def write_sealed(path: Path, content: bytes, key: SealingKey, about: str) -> None:
    """Write the content under the key, mode 0600; `about` says what it is and whose, and is not written.

    After a kill, or a failure of the machine, the file holds this content or what it held before.

    Raises:
        StateError: if it cannot be written; then nothing is changed.
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(key.secret).encrypt(nonce, content, _bound(key, about))
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb", opener=_private) as file:
            file.write(_MAGIC + key.name + nonce + sealed)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StateError(
            f"cannot write {path}: {error.strerror}; free some space there, or give another folder"
        ) from error


def read_sealed(path: Path, key: SealingKey, about: str) -> bytes:
    """The content of a file that was written with the same key and the same `about`.

    Raises:
        DamagedStateError: if the file is not whole, was changed, or is about something else.
        StateError: if it cannot be read, or was written with another key.
    """
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    if len(sealed) < _HEAD_BYTES + _TAG_BYTES or not sealed.startswith(_MAGIC):
        raise DamagedStateError(f"{path} is not a whole file of fedeff's sealed format, version 1")
    name, nonce = sealed[len(_MAGIC) : -_NONCE_BYTES][:_NAME_BYTES], sealed[:_HEAD_BYTES][-_NONCE_BYTES:]
    if name != key.name:
        raise StateError(f"{path} was written with another key; give the one that it was written with")
    try:
        return AESGCM(key.secret).decrypt(nonce, sealed[_HEAD_BYTES:], _bound(key, about))
    except InvalidTag:
        raise DamagedStateError(f"{path} was changed since it was written, or is not {about}") from None


def _bound(key: SealingKey, about: str) -> bytes:
    """What is authenticated beside the content."""
    return _MAGIC + key.name + about.encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    """Make a file's new name outlive a failure of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
