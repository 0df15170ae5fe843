"""A run in a child process that ends at some operation on its files, at once; and what it leaves."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["left_by", "to_its_end"]

KILLED = 9


def to_its_end(work: Callable[[], object], folder: Path, operation: int | None) -> bool:
    """Work in a forked child, killed at this operation on the folder's files; whether it came to its end."""
    child = os.fork()
    if child == 0:
        if operation is not None:
            _kill_at(operation, folder)
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), status
    return status == 0


def left_by(folder: Path) -> list[object]:
    """What a run leaves, without wall time: its checkpoints' bytes and its records."""
    checkpoints = {file.name: file.read_bytes().hex() for file in sorted((folder / "checkpoints").iterdir())}
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for record in records:
        del record["wall_s"], record["wall_s_total"]
    return [checkpoints, records, json.loads((folder / "summary.json").read_text())["status"]]


def _kill_at(operation: int, folder: Path) -> None:
    """Arm this process: it ends at the given operation, counted from 1, on any file in the folder."""
    seen, inside = 0, str(folder)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event in ("os.rename", "os.remove", "os.truncate") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and str(arguments[0]).startswith(inside):
            seen += 1
            if seen == operation:
                os._exit(KILLED)

    sys.addaudithook(watch)
