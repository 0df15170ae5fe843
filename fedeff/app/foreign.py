"""Anyone's Flower app folder on our engine, recorded by what its Grid sees.

The app runs as it is: nothing in it is replaced but the Grid, which is wrapped in a meter. Its
strategy begins at round 1 and keeps evaluations to itself, so there is no resuming and no stopping
at an accuracy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedeff.app.closing import About, summarised
from fedeff.app.overrides import fuse
from fedeff.app.run import OnRound
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.core.errors import AppError, ConfigError
from fedeff.core.flower import app_components, load_component, run_config_of
from fedeff.core.records import Exchange
from fedeff.core.round_log import RoundLog

if TYPE_CHECKING:
    from fedeff.core.delays import VirtualClock

__all__ = ["ForeignApp", "is_built_in", "simulate_foreign"]

Value = bool | int | float | str

_BUILT_IN = ("fedeff.app.server:app", "fedeff.app.client:app")


@dataclass(frozen=True)
class ForeignApp:
    """A Flower app folder, loaded: both its components and its run config."""

    folder: Path
    server: ServerApp
    client: ClientApp
    run_config: Mapping[str, Value]

    @classmethod
    def load(cls, folder: Path, overrides: Mapping[str, Value]) -> "ForeignApp":
        """The app in a folder; `overrides` replace values of its `[tool.flwr.app.config]`.

        Raises:
            AppError: if the folder holds no app, or its components cannot be loaded.
            ConfigError: if an override names no key of the app's config.
        """
        folder = folder.resolve()
        if "target-accuracy" in overrides and "target-accuracy" not in run_config_of(folder, []):
            raise ConfigError(
                "target-accuracy is for the built-in app: this one keeps its evaluations to itself, "
                "so a run of it cannot be stopped at an accuracy; leave the setting out"
            )
        server, client = app_components(folder)
        run_config = fuse(run_config_of(folder, []), overrides)
        return cls(
            folder,
            _component(server, folder, ServerApp),
            _component(client, folder, ClientApp),
            run_config,
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def rounds(self) -> int | None:
        """How many rounds the run config seems to ask for, for a progress bar."""
        rounds = self.run_config.get("num-server-rounds")
        return rounds if isinstance(rounds, int) and rounds > 0 else None


def _component(reference: str, folder: Path, kind: type[ServerApp] | type[ClientApp]) -> Any:
    """The component; where there is none, Flower explains references at length: its first line is kept."""
    try:
        return load_component(reference, folder, kind)
    except AppError as error:
        raise AppError(f"{folder}: {str(error).strip().splitlines()[0]}") from error


def is_built_in(folder: Path) -> bool:
    """Whether an app folder, such as this repository's own, names the built-in components.

    Raises:
        AppError: if the folder holds no app.
    """
    return app_components(folder) == _BUILT_IN


def _by_partition(grid: Grid, add: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """`add` for exchanges whose participants are told by partition, which apps of others do not say.

    Node ids of our engine ascend with the partitions they hold.
    """
    places = {node: place for place, node in enumerate(sorted(grid.get_node_ids()))}

    def added(exchange: Exchange) -> None:
        participants = tuple(places.get(one, one) for one in exchange.participants)
        add(replace(exchange, participants=participants))

    return added


def simulate_foreign(
    app: ForeignApp, runtime: Runtime, path: Path, *, seed: int | None = None, on_round: OnRound | None = None
) -> RunFolder:
    """Run the app in a new run folder and return it, with record, summary and report.

    `seed` seeds the global generators that the app draws from, so that a run can be repeated.

    Raises:
        ResumeError: if the folder exists already.

    Whatever the app raises passes through.
    """
    clock = runtime.clock(seed or 0)
    started_at = datetime.now().astimezone().isoformat(timespec="seconds")
    seeded = {} if seed is None else {"seed": seed}
    folder = RunFolder.create(
        path,
        {
            "app": str(app.folder),
            "started-at": started_at,
            **seeded,
            "simulation": runtime.table(),
            "config": dict(app.run_config),
        },
    )
    with folder.locked():
        log = RoundLog(folder.rounds_file, closes_itself=True, on_round=on_round)
        with summarised(folder, About(app.name, seed, runtime.clients, runtime.engine, started_at)):
            _run(app, runtime, log, clock, seed)
        folder.write_report()
    return folder


def _run(
    app: ForeignApp, runtime: Runtime, log: RoundLog, clock: "VirtualClock | None", seed: int | None
) -> None:
    """Run the app; the log gets what its Grid sees, in the end what it never saw answered."""
    from fedeff.grids.metered import MeteredGrid
    from fedeff.simulation import run_simulation

    meters: list[MeteredGrid] = []

    def metered(grid: Grid) -> MeteredGrid:
        meters.append(MeteredGrid(grid, _by_partition(grid, log.add), clock))
        return meters[-1]

    try:
        run_simulation(
            app.server,
            app.client,
            runtime.clients,
            run_config=dict(app.run_config),
            clock=clock,
            seed=seed,
            app_dir=app.folder,
            meter=metered,
            **runtime.engine_options(),
        )
    finally:
        for meter in meters:
            meter.close()
        log.close()
