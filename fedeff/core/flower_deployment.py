"""The place that touches flwr's private names of a deployment; those of a run are in `fedeff.core.flower`.

What is private in flwr 1.41: which class the Grid of a `flwr run` is of; that a message may be found before
its parts are there, and how they are waited for; what a SuperNode does between two messages (it sleeps 3 s,
starts a SuperExec that looks for tasks every second, and the SuperExec a process for each); how a task is
claimed and run; what the command `flwr-clientapp` calls.
`tests/core/test_flower_deployment.py` holds each of these facts against the installed flwr.
"""

import argparse
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from fedeff.core.errors import ConfigError

if TYPE_CHECKING:  # each client's process imports this module, and waits for what it imports
    from flwr.app import Message
    from flwr.serverapp import Grid

__all__ = [
    "CLIENT_TASK",
    "ClientRuntime",
    "StartTask",
    "flwr_clientapp",
    "is_deployed",
    "pull_replies",
    "run_client_task",
    "run_supernode",
]

StartTask = Callable[[str], None]  # what starts the task of a token, and returns at once

_HTTP_GRID = ("flwr.superlink.grid.http_grid", "HttpGrid")
_WORKER = "flwr.supernode.start_client_internal"
CLIENT_TASK = "flwr.supernode.runtime.run_clientapp"  # what a client's process imports first
# Seconds until a part that is not there yet is asked for again, at first and at most; 1 and 10 in Flower.
_PARTS = {"initial_backoff": 0.05, "backoff_cap": 0.4}
_STARTED = "Start `flwr-clientapp` process"  # as Flower's command says, for who reads the logs


def is_deployed(grid: "Grid") -> bool:
    """Whether the Grid is the one that Flower's deployment gives a ServerApp, which talks to a SuperLink.

    Nothing is imported for it: where the class was never loaded, no Grid is of it.
    """
    module, name = _HTTP_GRID
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(grid, kind)


def pull_replies(grid: "Grid", message_ids: Iterable[str]) -> "list[Message]":
    """What the Grid has in answer to these messages; that of a deployment with less patience than its own.

    A reply is found as soon as it is named to the SuperLink, before its arrays are there. Flower's
    `pull_messages` then sleeps for one second, two, four; this is the same code, but it asks again at once.
    """
    return list(_pulling()(grid, message_ids) if is_deployed(grid) else grid.pull_messages(message_ids))


@functools.cache
def _pulling() -> "Callable[[Grid, Iterable[str]], Iterable[Message]]":
    module, name = _HTTP_GRID
    http: Any = importlib.import_module(module)
    patient: FunctionType = getattr(http, name).pull_messages
    names = {**vars(http), "pull_objects": functools.partial(http.pull_objects, **_PARTS)}
    return FunctionType(patient.__code__, names)


@dataclass(frozen=True)
class ClientRuntime:
    """Where the processes of client apps find their SuperNode."""

    address: str  # host:port
    insecure: bool
    root_certificates: Path | None  # None: those of the system
    supernode_pid: int


def run_supernode(
    arguments: list[str],
    start_tasks: Callable[[ClientRuntime], StartTask],
    wait: Callable[[float], None],
) -> None:
    """Run `flower-supernode` with these arguments, but for three things; does not return.

    Where it would sleep it calls `wait` with the seconds: 3 while no message is there, 0.5 for a task's
    reply. Instead of a SuperExec, what `start_tasks` gives starts the task of a message as soon as the
    message is there. Parts of a message that are still on their way are asked for again at once.
    """
    worker: Any = importlib.import_module(_WORKER)
    pull = worker._pull_and_store_message
    starters: list[StartTask] = []

    def superexec(command: list[str]) -> None:
        starters.append(start_tasks(_runtime_of(command)))

    def pull_and_start(*, state: Any, **others: Any) -> Any:
        run_id = pull(state=state, **others)
        if run_id is not None and starters:
            _start_pending(state, starters[0])
        return run_id

    worker.time = SimpleNamespace(sleep=wait)
    worker.subprocess = SimpleNamespace(Popen=superexec)
    worker._pull_and_store_message = pull_and_start
    worker.pull_objects = functools.partial(worker.pull_objects, **_PARTS)
    sys.argv = ["flower-supernode", *arguments]
    importlib.import_module("flwr.supernode.cli").flower_supernode()


def run_client_task(runtime: ClientRuntime, token: str, forget: Collection[str] = ()) -> None:
    """Do in this process what `flwr-clientapp` does; ends in a `SystemExit`.

    Packages named in `forget` that the app brings are imported from the app, as a new process would.
    """
    task: Any = importlib.import_module(CLIENT_TASK)
    loader = task.get_load_client_app_fn

    def fresh(**options: Any) -> Any:
        load = loader(**options)

        def loaded(fab_id: str, version: str, fab_hash: str) -> Any:
            _forget(forget, Path(task.get_project_dir(fab_id, version, fab_hash)))
            return load(fab_id, version, fab_hash)

        return loaded

    task.get_load_client_app_fn = fresh
    certificates = runtime.root_certificates
    task.log(logging.INFO, _STARTED)
    task.run_clientapp(
        runtime_api_address=runtime.address,
        token=token,
        insecure=runtime.insecure,
        certificates=certificates.read_bytes() if certificates else None,
        parent_pid=runtime.supernode_pid,
        runtime_dependency_install=False,
    )


def flwr_clientapp() -> None:
    """What the command `flwr-clientapp` does, without importing what only a SuperNode needs.

    Flower's command lies in a package that imports the SuperNode too, with its web server and its database:
    half of the time that a client's process takes to start.
    """
    options: Any = importlib.import_module("flwr.common.args")
    tls: Any = importlib.import_module("flwr.supercore.tls")
    task: Any = importlib.import_module(CLIENT_TASK)
    parser = argparse.ArgumentParser("flwr-clientapp")
    parser.add_argument("--runtime-api-address", required=True)
    options.add_args_flwr_app_common(parser=parser)
    told = parser.parse_args()
    token = options.try_obtain_flwr_app_token(told)
    task.log(logging.INFO, _STARTED)
    task.run_clientapp(
        runtime_api_address=told.runtime_api_address,
        token=token,
        insecure=told.insecure,
        certificates=tls.validate_and_resolve_root_certificates(told.root_certificates, told.insecure),
        parent_pid=told.parent_pid,
        runtime_dependency_install=told.runtime_dependency_install,
    )


def _runtime_of(superexec: list[str]) -> ClientRuntime:
    """What the command line of a SuperExec says about its SuperNode."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--parent-pid", type=int, default=os.getpid())
    parser.add_argument("--allow-runtime-dependency-installation", action="store_true")
    told = parser.parse_args(superexec[1:])
    if told.allow_runtime_dependency_installation:
        raise ConfigError(
            "prompt clients run in the SuperNode's environment and install nothing; "
            "leave out --allow-runtime-dependency-installation"
        )
    return ClientRuntime(told.runtime_api_address, told.insecure, told.root_certificates, told.parent_pid)


def _start_pending(state: Any, start: StartTask) -> None:
    """Claim the node's pending tasks, oldest first, as a SuperExec does, and start them."""
    constants = importlib.import_module("flwr.common.constant")
    pending = state.get_tasks(statuses=[constants.Status.PENDING], order_by="pending_at", ascending=True)
    for task in pending:
        if token := state.claim_task(task.task_id):
            start(token)


def _forget(packages: Collection[str], folder: Path) -> None:
    """Drop from memory what the folder holds under these names, so that it is imported from there."""
    brought = {name for name in packages if (folder / name).is_dir() or (folder / f"{name}.py").is_file()}
    for module in [name for name in sys.modules if name.partition(".")[0] in brought]:
        del sys.modules[module]
