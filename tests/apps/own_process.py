"""Commands that tests run in processes of their own, and that are gone afterwards with all they started."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARKER = "FEDEFF_TEST_PROCESS"  # in the environment of a process and of whatever it starts
_PATIENCE_S = 20  # with the process itself, once it was asked to end
_REST_S = 2  # with what it leaves behind
_SHOWN = 3000


def run_module(module: str, *arguments: str, home: Path, timeout_s: float = 180) -> None:
    """Run `python -m module arguments...`, with Flower's own folder in `home`.

    Raises `AssertionError` with the end of what it said where it fails or takes too long.
    """
    log = home / f"{module}.log"
    paths = {"PYTHONPATH": str(Path(__file__).parents[1]), "FLWR_HOME": str(home)}
    with started([sys.executable, "-m", module, *arguments], log, paths) as process:
        try:
            ending = f"exit code {process.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            ending = f"no end in {timeout_s:g} s"
    assert ending == "exit code 0", f"{module}: {ending}\n{end_of(log)}"


@contextmanager
def started(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command of this environment, whose output goes to `log`; stopped in the end."""
    marker = uuid.uuid4().hex
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = os.environ | {"PATH": path, _MARKER: marker} | (environment or {})
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=own, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        _end_rest(marker)
        process.wait()


def end_of(log: Path) -> str:
    """The last of what a command said."""
    return log.read_text(errors="replace")[-_SHOWN:]


def _end_rest(marker: str) -> None:
    """Wait until everything with the marker is gone; kill what takes too long, as Flower's SuperExec does."""
    patience_ends_s = time.monotonic() + _REST_S
    while left := _marked(marker):
        if time.monotonic() > patience_ends_s:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _marked(marker: str) -> list[int]:
    """Processes that are, or descend from, the one that was started with the marker; on Linux alone."""
    entry, found = f"{_MARKER}={marker}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if entry in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found
