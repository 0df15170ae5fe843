"""Flower's own `flwr` command under a site's connection, its imports paid once for many commands.

It is the console script that the package `flwr` declares, called in a process of its own, so that what it
does to the environment and to standard output stays there.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fedeff.core.errors import DeploymentError
from fedeff.deployment.commands import environment
from fedeff.deployment.site import CONNECTION, Site

__all__ = ["Flwr", "flwr"]

_END = "--- end of answer ---"
_PATIENCE_S = 120.0  # its imports take seconds, on a busy machine many


class Flwr:
    """Nodes and runs of a SuperLink: listed, registered and unregistered, started and stopped."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def nodes(self) -> dict[str, str]:
        """Status by node id, such as "online" or "unregistered"."""
        listed = self._asked("supernode", "list", CONNECTION)
        return {one["node-id"]: one["status"] for one in listed["nodes"]}

    def register(self, public_key: str) -> str:
        """Make a key known to the SuperLink; the node id it gets."""
        return str(self._asked("supernode", "register", public_key, CONNECTION)["node-id"])

    def unregister(self, node_id: str) -> None:
        """Make the key of a node unknown, for good: Flower never takes it again."""
        self._asked("supernode", "unregister", node_id, CONNECTION)

    def start_run(self, app: Path, *run_config: str) -> str:
        """Start a run of an app's folder, with `key=value` texts over its own settings; its number."""
        given = [word for text in run_config for word in ("--run-config", text)]
        return str(self._asked("run", str(app), CONNECTION, *given)["run-id"])

    def run_status(self, run_id: str) -> tuple[str, str]:
        """How a run stands, such as "running" or "finished:failed", and what Flower says about it."""
        (run,) = self._asked("ls", CONNECTION, "--run-id", run_id)["runs"]
        return run["status"], run["status-details"]

    def stop_run(self, run_id: str) -> None:
        """End a run that has not ended."""
        self._asked("stop", run_id, CONNECTION)

    def _asked(self, *arguments: str) -> dict[str, Any]:
        """What `flwr arguments...` says in JSON. Raises `DeploymentError` where it says no, or nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        patience = threading.Timer(_PATIENCE_S, self._process.kill)
        patience.start()
        said: list[str] = []
        try:
            self._process.stdin.write(json.dumps([*arguments, "--format", "json"]) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.rstrip("\n") == _END:
                    return _answer(arguments, "".join(said))
                said.append(line)
        except BrokenPipeError:
            pass
        finally:
            patience.cancel()
        raise DeploymentError(f"flwr {' '.join(arguments)} ended without an answer: {' '.join(said)[-500:]}")


def _answer(arguments: tuple[str, ...], said: str) -> dict[str, Any]:
    start = said.find("{")
    try:
        answer: dict[str, Any] = json.loads(said[start:]) if start >= 0 else {}
    except ValueError:
        answer = {}
    if answer.get("success") is not True:
        why = answer.get("error-message", said)
        raise DeploymentError(f"flwr {' '.join(arguments[:2])} failed: {' '.join(str(why).split())[-500:]}")
    return answer


@contextmanager
def flwr(site: Site) -> Iterator[Flwr]:
    """`flwr` as a process that answers until the block ends."""
    command = [sys.executable, "-m", "fedeff.deployment.flwr_command"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        env=environment(site),
        cwd=site.folder,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Flwr(process)
        finally:
            process.kill()


def _serve() -> None:
    """Run a command for each line of arguments; what it says, then the mark of its end."""
    (script,) = entry_points(group="console_scripts", name="flwr")
    command = script.load()
    for line in sys.stdin:
        try:
            command(json.loads(line), standalone_mode=False)
        except SystemExit:
            pass  # what was wrong has been said
        except Exception as error:  # click's, which standalone mode would print
            sys.stdout.write(f"{type(error).__name__}: {error}\n")
        sys.stdout.write(f"\n{_END}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
