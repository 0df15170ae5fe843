"""A run of a deployment, on the machine of its ServerApp: nodes known by partition, and a run folder.

It is the run folder of a simulated run: records, checkpoints, summary, report. A ServerApp that finds a run
there that was stopped anywhere goes on with it, under whatever number Flower has for the new attempt.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from flwr.app import ConfigRecordValues
from flwr.serverapp import Grid

from fedeff.app.closing import About, summarised
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.settings import Settings
from fedeff.clients.durable_state import RUN_KEY
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.flower_deployment import is_deployed
from fedeff.core.state import StateStore
from fedeff.grids import PartitionGrid, prompted

__all__ = ["ENGINE", "Place", "deployed", "server_process", "settings_of_run"]

ENGINE = "deployment"  # in summaries, and a table of config.toml
_RUN = "run"  # in that table: what clients call the run
_PROCESS = "server.pid"
# What may differ between attempts: it says where and how long, not what.
_OF_THE_ATTEMPT = ("run-folder", "wait-for-clients-s", "round-timeout-s", "data-folder")

_flower_log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Place:
    """Where a run happens: the Grid to its clients, its folder, if any, and what every message says of it.

    `packed`: its messages are cheaper with one array than with many.
    """

    grid: Grid
    folder: RunFolder | None = None
    states: StateStore | None = None
    told: Mapping[str, ConfigRecordValues] = field(default_factory=dict)
    wait_s: float = 0.0  # for which a round waits for the first client to be there
    packed: bool = False


@contextmanager
def deployed(settings: Settings, grid: Grid) -> Iterator[Place]:
    """The place of a run under `flwr run`; nothing but the grid where that is no SuperLink's.

    With the setting `run-folder` the folder is made, or the run in it gone on with; in the end it has a
    summary, whatever happened, and a report where the run finished.

    Raises:
        ResumeError: if the folder holds another run, or another process is at it.
        ConfigError: if no client comes, or the rounds cannot be drawn from those that there are.
    """
    if not is_deployed(grid):
        if settings.run_folder:
            raise ConfigError("run-folder is for runs on a SuperLink; leave it out of this one")
        yield Place(grid)
        return
    nodes = PartitionGrid(prompted(grid))
    clients = nodes.meet(settings.wait_for_clients_s)
    settings.check_clients(clients)
    if not settings.run_folder:
        yield Place(nodes, wait_s=settings.wait_for_clients_s, packed=True)
        return
    folder = _opened(settings, clients)
    states = StateStore(folder.client_states)
    with folder.locked():
        folder.forget_summary()
        told = {RUN_KEY: str(folder.config()[ENGINE][_RUN])}
        _flower_log.info("run folder %s: %d rounds done", folder.path, len(folder.rounds()))
        with _at_work(folder), summarised(folder, _about(settings, folder, clients)):
            yield Place(nodes, folder, states, told, settings.wait_for_clients_s, packed=True)
        states.discard()
        _keep_partition(settings, folder, clients)
        folder.write_report()


def settings_of_run(folder: RunFolder) -> Settings:
    """The settings that a deployed run began with.

    Raises:
        ResumeError: if the run is none of a deployment's.
    """
    config = folder.config()
    if ENGINE not in config:
        raise ResumeError(
            f"{folder.path} is no run of a deployment; go on with it by: "
            f"fedeff simulate --resume --name {folder.name}"
        )
    return Settings.from_run_config(config["config"])


def server_process(folder: RunFolder) -> psutil.Process | None:
    """The ServerApp that is at work in the folder, on this machine; None where none is."""
    try:
        pid, started_at_s = (folder.path / _PROCESS).read_text().split()
        process = psutil.Process(int(pid))
        # A pid alone may belong to somebody else by now.
        same = process.create_time() == float(started_at_s)
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.Error):
        return None


@contextmanager
def _at_work(folder: RunFolder) -> Iterator[None]:
    """Say in the folder which process is at work, so that others can tell whether it was killed."""
    file, process = folder.path / _PROCESS, psutil.Process()
    partial = file.with_name(f"{_PROCESS}.partial")
    partial.write_text(f"{process.pid} {process.create_time()!r}\n")
    partial.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _opened(settings: Settings, clients: int) -> RunFolder:
    """The folder of the run, new or with what was done of it."""
    path = Path(settings.run_folder).expanduser()
    if not path.is_absolute():
        raise ConfigError(f"run-folder = {settings.run_folder!r} is not absolute; give the path from / on")
    if not is_run(path):
        return RunFolder.create(path, _config(settings, clients))
    folder = RunFolder.open(path)
    before = settings_of_run(folder).complete().run_config()
    now = settings.complete().run_config()
    known = {"clients": clients} | {key: now.get(key) for key in now.keys() | before.keys()}
    was = {"clients": folder.config()[ENGINE]["clients"], **before}
    for key in sorted(known.keys() - set(_OF_THE_ATTEMPT)):
        if known[key] != was.get(key):
            raise ResumeError(
                f"{path} holds a run with {key} = {was.get(key)!r}, not {known[key]!r}; "
                "go on with the same settings, or choose another folder"
            )
    return folder


def _config(settings: Settings, clients: int) -> dict[str, Any]:
    return {
        "app": "fedeff",
        "started-at": datetime.now().astimezone().isoformat(timespec="seconds"),
        ENGINE: {"clients": clients, _RUN: secrets.token_hex(8)},
        "config": settings.complete().run_config(),
    }


def _about(settings: Settings, folder: RunFolder, clients: int) -> About:
    return About(
        strategy=settings.strategy,
        seed=settings.seed,
        clients=clients,
        engine=ENGINE,
        started_at=str(folder.config().get("started-at", "")),
        rounds=settings.num_server_rounds,
        target_accuracy=settings.target_accuracy,
    )


def _keep_partition(settings: Settings, folder: RunFolder, clients: int) -> None:
    """Write which classes each client should hold, for the report."""
    from fedeff.app.workload import dataset_of, shares_of

    labels = dataset_of(settings).labels
    counts = shares_of(settings, clients).train.class_counts(labels, int(labels.max()) + 1)
    folder.write_partition(counts)
