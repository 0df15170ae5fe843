"""Files and folders that only their owner may read, and that nothing overwrites by accident."""

import os
import secrets
from pathlib import Path

from fedeff.core.errors import ConfigError

__all__ = ["create_private", "make_private_folder", "replace_private"]


def make_private_folder(path: Path) -> Path:
    """Make the folder and those above it that are missing, with mode 0700; the path.

    A folder that is there keeps its mode: it may be somebody's home.
    """
    if not path.is_dir():
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def create_private(path: Path, content: bytes, force: bool = False) -> None:
    """Write a new file with mode 0600; one that is there is replaced under `force` only.

    Raises:
        ConfigError: if it is there and `force` was not given.
    """
    make_private_folder(path.parent)
    if force:
        replace_private(path, content)
        return
    try:
        # Created with its mode: it is readable by others at no moment.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} is there already and stays; --force replaces it") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def replace_private(path: Path, content: bytes) -> None:
    """Write a file with mode 0600 in one step: a reader sees the old content or the new one."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    create_private(new, content)
    new.replace(path)
