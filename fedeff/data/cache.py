"""Prepared arrays on disk, memory-mapped, so that worker processes start fast and share pages.

An entry is a folder of `.npy` files that appears whole, by one rename, and is never changed. Its
name holds a digest of everything the arrays were made from; whoever makes an entry verifies the
sources, so opening one costs a few `stat` calls and no checksum.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "cache_folder", "file_stamp", "mapped_arrays"]

Arrays = dict[str, NDArray[Any]]
logger = logging.getLogger(__name__)
INDEX = "index.json"
IN_MEMORY = "cannot use %s (%s); each process keeps its own copy of %s in memory"


def cache_folder() -> Path:
    """Where fedeff keeps what it can make again: `$XDG_CACHE_HOME/fedeff`, else `~/.cache/fedeff`."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path("~/.cache").expanduser()) / "fedeff"


def file_stamp(path: Path) -> str:
    """A string that changes when the file does: its path, size in bytes and time of change."""
    seen = path.stat()
    return f"{path.resolve()}:{seen.st_size}:{seen.st_mtime_ns}"


def mapped_arrays(name: str, stamps: Sequence[str], build: Callable[[], Arrays]) -> Arrays:
    """What `build()` gives, memory-mapped read-only from the cache, which it fills when it must.

    `stamps` name everything that the arrays depend on. Where the cache cannot be written the
    arrays stay in memory, with a warning: correct, but each process then holds its own copy.
    """
    try:
        digest = hashlib.sha256(json.dumps(list(stamps)).encode()).hexdigest()
        entry = cache_folder() / name / digest[:16]
        found = _read(entry)
    except (OSError, RuntimeError) as error:  # no home folder, or one that may not be entered
        logger.warning(IN_MEMORY, "the cache", error, name)
        return build()
    if found is not None:
        return found
    arrays = build()
    try:
        _write(entry, arrays)
    except OSError as error:
        logger.warning(IN_MEMORY, entry, error, name)
        return arrays
    return _read(entry) or arrays


def _read(entry: Path) -> Arrays | None:
    """The arrays of a whole entry; None if it is absent or its files are not those written."""
    try:
        index: dict[str, list[int]] = json.loads((entry / INDEX).read_text())
        if any(_seen(entry / f"{key}.npy") != wanted for key, wanted in index.items()):
            return None
        # A plain view: np.memmap's own bookkeeping makes each small batch slower.
        return {key: np.load(entry / f"{key}.npy", mmap_mode="r").view(np.ndarray) for key in index}
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write(entry: Path, arrays: Arrays) -> None:
    """Make the entry whole or not at all; another process that was faster is as good."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
    try:
        for key, array in arrays.items():
            np.save(partial / f"{key}.npy", array)
        index = {key: _seen(partial / f"{key}.npy") for key in arrays}
        (partial / INDEX).write_text(json.dumps(index))
        if entry.exists() and _read(entry) is None:
            shutil.rmtree(entry)
        if not entry.exists():
            partial.replace(entry)
    except OSError:
        if _read(entry) is None:
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seen(path: Path) -> list[int]:
    # Whole seconds: copies of a cache, such as container layers, keep no finer times.
    seen = path.stat()
    return [seen.st_size, int(seen.st_mtime)]
