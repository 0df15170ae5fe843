"""A client's state that outlives its SuperNode: encrypted files, restored and written around each message.

A SuperNode keeps `Context.state` in memory, by Flower's run. Here it is written before a reply goes, one file
a round. A run that is resumed is another one to Flower and repeats rounds: a client goes on from its state
before the round that it is asked for, whatever it did of that round before.
"""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedeff.core.errors import ConfigError, DamagedStateError, StateError
from fedeff.core.flower import Blobs, pack_content, unpack_content
from fedeff.core.sealed import SealingKey, read_sealed, write_sealed

__all__ = ["RUN_KEY", "StateFiles", "durable_state_mod"]

RUN_KEY = "run"  # of a message's configuration: what the server's run is called, however often it is resumed

_KEPT_ROUNDS = 4  # the three that a server's checkpoints may go back to, and the one under way
_KEPT_RUNS = 3
_RUN_NAME = re.compile(r"[0-9a-zA-Z_-]{1,64}")
_flower_log = logging.getLogger("flwr")  # what a SuperNode prints


def durable_state_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The client's reply, with its state kept in `state-dir` under the key `state-key` of the node's config.

    Where the runtime has lost the state it is restored before the message, and where the message changed it
    it is written before the reply. Without `state-dir` nothing is kept. Put it before all other mods.

    Raises:
        ConfigError: if there is a `state-dir` without a `state-key`.
        StateError: if the key cannot be used, or the state cannot be written.
    """
    files, place = _files_of(context), _Place.of(message, context)
    if files is None or place is None:
        return call_next(message, context)
    if not context.state:
        restored = files.state_before(place.run, place.server_round, place.attempt)
        if restored is not None:
            context.state = restored
    before = _encoded(context.state)
    reply = call_next(message, context)
    if _encoded(context.state) != before:
        files.write(place.run, place.server_round, place.attempt, context.state)
    return reply


@dataclass(frozen=True)
class _Place:
    """Where in which run a message belongs; `attempt` is Flower's number of it, another after each resume."""

    run: str
    server_round: int
    attempt: int

    @classmethod
    def of(cls, message: Message, context: Context) -> "_Place | None":
        """The place that a message names; None where it names no round."""
        found: dict[str, Any] = {}
        for record in message.content.config_records.values() if message.has_content() else ():
            found |= {key: record[key] for key in ("server-round", RUN_KEY) if key in record}
        server_round, run = found.get("server-round"), found.get(RUN_KEY, f"flower-{context.run_id}")
        if type(server_round) is not int:
            return None
        if type(run) is not str or not _RUN_NAME.fullmatch(run):
            raise ConfigError(
                f"the message calls its run {run!r}; a name has up to 64 letters, digits, - and _"
            )
        return cls(run, server_round, context.run_id)


@dataclass(frozen=True)
class StateFiles:
    """The states of one client, a folder for each run, a file for each of its last rounds that changed it."""

    folder: Path
    key: SealingKey
    owner: str  # authenticated: a file of one client is of no use to another

    def write(self, run: str, server_round: int, attempt: int, state: RecordDict) -> None:
        """Keep the state after a message of the round; what later rounds left is of a course given up.

        Raises:
            StateError: if it cannot be written.
        """
        folder = self.folder / run
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for later in [path for path in _newest_first(folder) if _round_of(path) > server_round]:
                later.unlink()  # before the write: a kill in between must not leave both
        except OSError as error:
            raise StateError(f"cannot write client state to {folder}: {error.strerror}") from error
        content = msgspec.msgpack.encode((attempt, *_packed(state)))
        path = folder / f"{server_round:06d}.state"
        write_sealed(path, content, self.key, self._about(path))
        for old in _newest_first(folder)[_KEPT_ROUNDS:]:
            old.unlink()
        self._drop_old_runs(folder)

    def state_before(self, run: str, server_round: int, attempt: int) -> RecordDict | None:
        """What a message of the round begins from; None for a client that has kept nothing.

        Within an attempt that is the newest state. Another one may have been stopped in this round or later,
        so then it is the newest of an earlier round. A damaged file is set aside, and an older one taken.

        Raises:
            StateError: if a file was written with another key.
        """
        for path in _newest_first(self.folder / run):
            found = self._read(path)
            if found is not None and (found[0] == attempt or _round_of(path) < server_round):
                return found[1]
        return None

    def _read(self, path: Path) -> tuple[int, RecordDict] | None:
        try:
            attempt, packed, blobs = msgspec.msgpack.decode(read_sealed(path, self.key, self._about(path)))
        except DamagedStateError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            _flower_log.warning("%s; it is set aside as %s, and an older state taken", error, aside.name)
            return None
        return attempt, unpack_content(_restored(packed), blobs)

    def _about(self, path: Path) -> str:
        return f"the client state of {self.owner}, run {path.parent.name}, round {_round_of(path)}"

    def _drop_old_runs(self, current: Path) -> None:
        runs = [path for path in self.folder.iterdir() if path.is_dir() and path != current]
        for old in sorted(runs, key=lambda path: path.stat().st_mtime_ns, reverse=True)[_KEPT_RUNS - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def _files_of(context: Context) -> StateFiles | None:
    folder, key = context.node_config.get("state-dir"), context.node_config.get("state-key")
    if not folder:
        return None
    if not key:
        raise ConfigError("the node's config has a state-dir but no state-key; give the file of its key, too")
    owner = f"partition {context.node_config.get('partition-id', 'unknown')}"
    return StateFiles(Path(str(folder)), SealingKey.read(Path(str(key))), owner)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.state"), key=_round_of, reverse=True)


def _round_of(path: Path) -> int:
    return int(path.stem)


def _packed(state: RecordDict) -> tuple[object, list[bytes]]:
    blobs = Blobs()
    return pack_content(state, blobs), blobs.items


def _encoded(state: RecordDict) -> bytes:
    """The state as bytes: equal ones for what is equal."""
    return msgspec.msgpack.encode(_packed(state))


def _restored(packed: Any) -> Any:
    """What `pack_content` gave, once MessagePack has made lists of its tuples."""
    return [
        (
            key,
            kind,
            items
            if isinstance(items, dict)
            else [(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in items],
        )
        for key, kind, items in packed
    ]
