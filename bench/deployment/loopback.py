"""A SuperLink with SuperNodes on this machine's loopback; when their processes said what."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import tomli_w

from bench.deployment.clients import NOTES
from bench.harness import ROOT
from bench.memory import MARK
from fedeff.deployment.client_command import write_client_command
from fedeff.deployment.prompt_clients import prompt_supernode

__all__ = ["Loopback", "Said", "Way", "loopback"]

_CONNECTION, _COMMANDS = "bench", "bin"
_UP_S, _STOP_S = 120.0, 20.0
_LOOK_S = 0.2
_LIST_EVERY_S = 120.0


@dataclass(frozen=True)
class Way:
    """How a deployment is run: what the rows compare."""

    name: str
    flowers_own: bool  # the grid; else a PromptGrid
    poll_s: float | None  # how often a SuperExec looks for tasks; None: as often as Flower has it
    quick_command: bool = False  # our `flwr-clientapp`, which imports less
    prompt_clients: bool = False


@dataclass(frozen=True)
class Said:
    """A line of a process, and when it came, in seconds since 1970."""

    at_s: float
    line: str


@dataclass
class Loopback:
    """What is running: files are in `folder`, what each SuperNode and its clients said in `said`."""

    folder: Path
    said: list[list[Said]]
    mark: str
    runs: int = field(default=0)

    def run(self, app: Path, out: Path, timeout_s: float) -> dict[str, Any]:
        """Run an app that writes `out` at its end; how Flower lists the run, with its status and traffic.

        Raises:
            RuntimeError: unless the run is completed in time.
        """
        self.runs += 1
        command = [_script("flwr"), "run", str(app), _CONNECTION]
        started = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        ends_s = time.monotonic() + timeout_s
        asked_s = time.monotonic()
        while time.monotonic() < ends_s and started.returncode == 0:
            time.sleep(_LOOK_S)
            # `flwr ls` takes seconds of a core, which are the clients' as long as they work.
            if not out.exists() and time.monotonic() < asked_s + _LIST_EVERY_S:
                continue
            listed, asked_s = self._listed(), time.monotonic()
            if len(listed) == self.runs and str(listed[0]["status"]).startswith("finished"):
                if listed[0]["status"] != "finished:completed":
                    raise RuntimeError(f"the run ended as {listed[0]['status']}; see {self.folder}")
                return listed[0]
        raise RuntimeError(f"no end in {timeout_s:g} s; see {self.folder}: {started.stdout[-500:]}")

    def _listed(self) -> list[dict[str, Any]]:
        command = [_script("flwr"), "ls", _CONNECTION, "--format", "json"]
        said = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=True)
        runs: list[dict[str, Any]] = json.loads(said.stdout)["runs"]  # newest first
        return runs

    def _environment(self) -> dict[str, str]:
        return _environment(self.folder, None, self.mark)


@contextmanager
def loopback(folder: Path, clients: int, way: Way, mark: str = "") -> Iterator[Loopback]:
    """A SuperLink and so many SuperNodes, numbered by partition, all gone in the end.

    They carry `mark` in their environment, as `bench.memory` wants it.
    """
    link, *ports = _free_ports(1 + clients)
    connection = {"address": f"127.0.0.1:{link}", "insecure": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(tomli_w.dumps({"superlink": {_CONNECTION: connection}}))
    environment = _environment(folder, way.poll_s, mark)
    if way.quick_command:
        write_client_command(folder / _COMMANDS)
    said: list[list[Said]] = [[] for _ in range(clients)]
    with ExitStack() as running:
        said_by_link: list[Said] = []
        running.enter_context(
            _started(_superlink(link, folder), folder / "superlink.log", environment, said_by_link)
        )
        _wait_for(link)
        nodes = []
        for partition, port in enumerate(ports):
            command = _supernode(port, link, f"partition-id={partition} num-partitions={clients}")
            if way.prompt_clients:
                command = prompt_supernode(command)
            log = folder / f"supernode-{partition}.log"
            nodes.append(running.enter_context(_started(command, log, environment, said[partition])))
        try:
            yield Loopback(folder, said, mark)
        finally:
            for node in nodes:  # all at once: each takes its time
                node.terminate()


def _environment(folder: Path, poll_s: float | None, mark: str) -> dict[str, str]:
    own = {
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join(
            (str(folder / _COMMANDS), str(Path(sys.executable).parent), os.environ["PATH"])
        ),
        NOTES: str(folder),
        MARK: mark,
    }
    others = {key: value for key, value in os.environ.items() if key != "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"}
    return others | own | ({} if poll_s is None else {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(poll_s)})


def _superlink(port: int, folder: Path) -> list[str]:
    options = [
        "--insecure",
        "--disable-runtime-dependency-installation",
        "--database",
        str(folder / "link.db"),
    ]
    return [_script("flower-superlink"), *options, "--host", "127.0.0.1", "--port", str(port)]


def _supernode(port: int, superlink: int, numbers: str) -> list[str]:
    options = ["--insecure", "--superlink", f"127.0.0.1:{superlink}", "--node-config", numbers]
    return [_script("flower-supernode"), *options, "--host", "127.0.0.1", "--port", str(port)]


def _script(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def _started(
    command: list[str], log: Path, environment: dict[str, str], said: list[Said]
) -> Iterator["subprocess.Popen[str]"]:
    """A running command, whose lines go to `said` as they come, and to `log`; gone in the end."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    listener = threading.Thread(target=_listen, args=(process.stdout, log, said), daemon=True)
    listener.start()
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        time.sleep(0.5)  # Flower's helpers look every 0.2 s whether their SuperNode is there
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listen(lines: IO[str], log: Path, said: list[Said]) -> None:
    with log.open("w") as kept:
        for line in lines:
            now_s = time.time()
            said.append(Said(now_s, line))
            kept.write(f"{now_s:.3f} {line}")
            kept.flush()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_for(port: int) -> None:
    ends_s = time.monotonic() + _UP_S
    while time.monotonic() < ends_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nobody listens on port {port}")
