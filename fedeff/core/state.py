"""One store of client state: bounded in memory, spilled to disk, with checkpoints to resume from.

A client's state is opaque bytes. It is put when the client's reply is taken, so that a client
whose worker died runs again from the state it had before. Files are written once and never
changed; a checkpoint is a small list of which file each client had, so that a run killed at any
point resumes from the last whole checkpoint, whatever was written after it.
"""

import json
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

from fedeff.core.errors import StateError

__all__ = ["StateStore"]

_KEPT = 3  # checkpoints, as many as a run keeps of its own


class StateStore:
    """The newest state of every client that has any.

    `directory` holds spilled states and checkpoints; without one, a temporary folder is made at the
    first spill and removed by `close`. At most `memory_bytes` bytes of states stay in memory.

    Raises `StateError` when the directory cannot be written or a file is damaged; a failed write
    leaves no partial file, and the state stays in memory.
    """

    def __init__(self, directory: Path | None = None, *, memory_bytes: int = 256 * 2**20) -> None:
        if memory_bytes < 0:
            raise StateError(f"memory_bytes is {memory_bytes}; expected 0 or more")
        self._directory = directory
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[int, bytes] = OrderedDict()  # least recently used first
        self._held_bytes = 0
        self._files: dict[int, str] = {}  # the newest file of a client, if its newest state has one
        self._kept: set[str] = set()  # files that a checkpoint lists
        self._serial = 0

    def __len__(self) -> int:
        return len(self._held.keys() | self._files.keys())

    @property
    def held_bytes(self) -> int:
        """Bytes of states in memory now."""
        return self._held_bytes

    def get(self, client: int) -> bytes | None:
        """The client's newest state, or None if it has none."""
        if client in self._held:
            self._held.move_to_end(client)
            return self._held[client]
        name = self._files.get(client)
        if name is None:
            return None
        try:
            return (self._folder() / name).read_bytes()
        except OSError as error:
            raise StateError(f"cannot read the state of client {client}: {error}") from error

    def put(self, client: int, state: bytes | None) -> None:
        """Make `state` the client's newest; None forgets the client."""
        self._held_bytes -= len(self._held.pop(client, b""))
        stale = self._files.pop(client, None)
        if state is not None:
            self._held[client] = state
            self._held_bytes += len(state)
            self._spill()
        if stale is not None and stale not in self._kept:
            (self._folder() / stale).unlink(missing_ok=True)

    def checkpoint(self, round: int) -> None:
        """Make the states of this moment what `restore(round)` gives back; older ones are dropped."""
        for client in [c for c in self._held if c not in self._files]:
            self._files[client] = self._write(client, self._held[client])
        listing = {"round": round, "files": {str(c): name for c, name in sorted(self._files.items())}}
        _replace(self._folder() / "checkpoint.json.tmp", self._folder() / f"checkpoint-{round}.json", listing)
        self._drop_older(round)

    @property
    def checkpointed(self) -> bool:
        """Whether there is a checkpoint to go back to: none before the first one and after `discard`."""
        return self._directory is not None and any(self._directory.glob("checkpoint-*.json"))

    def restore(self, round: int) -> None:
        """Go back to the states of `checkpoint(round)`."""
        path = self._folder() / f"checkpoint-{round}.json"
        try:
            listing = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot read the client states of round {round} from {path}: {error}"
            ) from error
        self._held.clear()
        self._held_bytes = 0
        self._files = {int(client): name for client, name in listing["files"].items()}
        self._kept = set(self._files.values())
        self._serial = 1 + max((int(name.split(".")[1]) for name in self._present()), default=0)

    def close(self) -> None:
        """Remove the temporary folder, if one was made."""
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def discard(self) -> None:
        """Forget every state and remove its files: the run that needed them is over."""
        self._held.clear()
        self._files.clear()
        self._kept.clear()
        self._held_bytes = 0
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _folder(self) -> Path:
        if self._directory is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="fedeff-state-")
            self._directory = Path(self._scratch.name)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._directory, error) from error
        return self._directory

    def _spill(self) -> None:
        while self._held_bytes > self._memory_bytes and self._held:
            client, state = next(iter(self._held.items()))
            if client not in self._files:
                self._files[client] = self._write(client, state)
            del self._held[client]
            self._held_bytes -= len(state)

    def _write(self, client: int, state: bytes) -> str:
        self._serial += 1
        name = f"{client}.{self._serial}.state"
        _replace(self._folder() / f"{name}.tmp", self._folder() / name, state)
        return name

    def _drop_older(self, round: int) -> None:
        """Keep this checkpoint and the two before it; drop what none of them lists."""
        checkpoints = sorted(
            self._folder().glob("checkpoint-*.json"), key=lambda p: int(p.stem.split("-")[1]), reverse=True
        )
        kept = [p for p in checkpoints if int(p.stem.split("-")[1]) <= round][:_KEPT]
        for path in set(checkpoints) - set(kept):
            path.unlink()
        self._kept = {name for path in kept for name in json.loads(path.read_text())["files"].values()}
        for name in self._present():
            if name not in self._kept:  # the newest checkpoint lists every file in use
                (self._folder() / name).unlink()

    def _present(self) -> list[str]:
        return [path.name for path in self._folder().glob("*.*.state")]


def _replace(temporary: Path, target: Path, content: bytes | dict[str, object]) -> None:
    """Write whole or not at all."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        temporary.write_bytes(data)  # not synced: a run outlives a kill of its process, not of the machine
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(target.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot write client state to {folder}: {error.strerror}; "
        "free some space there or give another state directory"
    )
