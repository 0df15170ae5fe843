"""A SuperLink with its SuperNodes on this machine's loopback, without TLS, for as long as a test needs it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from apps.own_process import end_of, started

_CONNECTION = "here"
_UP_S = 60


@dataclass(frozen=True)
class Deployment:
    """What is running: logs, and Flower's own folder with the connection, are in `folder`."""

    folder: Path

    def run(self, app: Path, timeout_s: float) -> None:
        """Run a Flower app folder to its end.

        Raises `AssertionError` with what the ServerApp said unless Flower calls it completed: the exit code
        of `flwr run` does not tell.
        """
        log = self.folder / "run.log"
        command = [_script("flwr"), "run", str(app), _CONNECTION, "--stream"]
        with started(command, log, {"FLWR_HOME": str(self.folder)}) as process:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"no end in {timeout_s:g} s\n{end_of(log)}") from None
        assert self.statuses() == ["finished:completed"], end_of(log)

    def statuses(self) -> list[str]:
        """How the runs stand."""
        listed = subprocess.run(
            [_script("flwr"), "ls", _CONNECTION, "--format", "json"],
            env=os.environ | {"FLWR_HOME": str(self.folder)},
            capture_output=True,
            timeout=60,
            check=True,
        )
        return [run["status"] for run in json.loads(listed.stdout)["runs"]]


@contextmanager
def deployment(folder: Path, supernodes: int) -> Iterator[Deployment]:
    """A SuperLink and so many SuperNodes, numbered by partition; all are stopped in the end."""
    link, *nodes = _free_ports(1 + supernodes)
    connection = {"address": f"127.0.0.1:{link}", "insecure": True}
    (folder / "config.toml").write_text(tomli_w.dumps({"superlink": {_CONNECTION: connection}}))
    # Flower looks for work every few seconds unless it is told to look more often.
    environment = {"FLWR_HOME": str(folder), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}
    with ExitStack() as running:

        def start(name: str, command: list[str]) -> subprocess.Popen[bytes]:
            return running.enter_context(started(command, folder / f"{name}.log", environment))

        _wait_for(link, start("superlink", _superlink(link)), folder / "superlink.log")
        for partition, port in enumerate(nodes):
            numbers = f"partition-id={partition} num-partitions={supernodes}"
            start(f"supernode-{partition}", _supernode(port, link, numbers))
        yield Deployment(folder)


def _superlink(port: int) -> list[str]:
    options = ["--insecure", "--disable-runtime-dependency-installation"]
    return [_script("flower-superlink"), *options, "--host", "127.0.0.1", "--port", str(port)]


def _supernode(port: int, superlink: int, numbers: str) -> list[str]:
    options = ["--insecure", "--superlink", f"127.0.0.1:{superlink}", "--node-config", numbers]
    return [_script("flower-supernode"), *options, "--host", "127.0.0.1", "--port", str(port)]


def _script(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + _UP_S
    while process.poll() is None and time.monotonic() < ends_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}\n{end_of(log)}")
