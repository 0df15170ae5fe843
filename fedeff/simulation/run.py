"""`run_simulation`: Flower's signature, any Flower app, many times faster."""

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedeff.core.delays import VirtualClock
from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.flower import UserConfig, new_run, set_task_identity, set_up_logging
from fedeff.core.state import StateStore
from fedeff.simulation.backend import Backend
from fedeff.simulation.block import Site, vector_size
from fedeff.simulation.grid import Engine, SimulationGrid
from fedeff.simulation.inline import InlineEngine
from fedeff.simulation.seeding import keep_global_generators, seed_global_generators

__all__ = ["SimulationResult", "run_simulation"]

_LOG = logging.getLogger(__name__)
_ENGINES = ("ray", "inline")


@dataclass(frozen=True)
class SimulationResult:
    """What a finished simulation leaves.

    `context` is the ServerApp's own, with whatever it stored in `context.state`; `seconds` the wall
    time of the ServerApp; `worker_deaths` how many worker processes had to be replaced.
    """

    context: Context
    seconds: float
    worker_deaths: int = 0


def run_simulation(
    server_app: ServerApp,
    client_app: ClientApp,
    num_supernodes: int,
    backend_name: str = "ray",
    backend_config: Mapping[str, Any] | None = None,
    enable_tf_gpu_growth: bool = False,
    verbose_logging: bool = False,
    *,
    run_config: UserConfig | None = None,
    engine: Literal["ray", "inline"] = "ray",
    num_actors: int | None = None,
    num_gpus: float | None = None,
    block_size: int | None = None,
    clock: VirtualClock | None = None,
    state_dir: Path | StateStore | None = None,
    seed: int | None = None,
    ray_address: str | None = None,
    app_dir: Path | None = None,
    meter: Callable[[Grid], Grid] | None = None,
) -> SimulationResult:
    """Run a Flower app over `num_supernodes` simulated clients and return when its ServerApp does.

    The first seven parameters are those of `flwr.simulation.run_simulation`. The ServerApp runs in
    the calling thread; each client's ClientApp runs in a Ray actor (`engine="ray"`) or here, one
    after the other (`engine="inline"`, the reference, with the same results).

    Parameters
    ----------
    num_supernodes : int
        Clients; each gets `partition-id` and `num-partitions` in `context.node_config`.
    backend_config : mapping, optional
        `client_resources` (`num_cpus`, 1 by default, and `num_gpus`) and `init_args` for
        `ray.init`; any other key is refused by name.
    run_config : mapping, optional
        What `context.run_config` holds on both sides.
    num_actors : int, optional
        Worker processes; by default as many as `client_resources` fit into the cluster.
    num_gpus : float, optional
        GPUs per worker, as `client_resources["num_gpus"]`.
    block_size : int, optional
        Clients that travel together. Results do not depend on `num_actors`; sums that are folded on
        the workers, and vectorised training, depend on `block_size` in the last bits.
    clock : VirtualClock, optional
        Simulated time: `timeout` then means virtual seconds, and replies arrive in virtual order.
    state_dir : Path or StateStore, optional
        Where client states go that do not fit into memory; by default a temporary folder.
    seed : int, optional
        Seeds the global generators that stock strategies and clients draw from, per client and
        message; they are put back afterwards.
    ray_address : str, optional
        An existing Ray cluster, such as `"auto"` or `"ray://host:10001"`.
    app_dir : Path, optional
        A folder whose modules the apps import.
    meter : callable, optional
        Wraps the Grid that the ServerApp gets, for example in `fedeff.grids.MeteredGrid`.

    Raises
    ------
    ConfigError
        An argument is out of range, or means nothing here.
    EngineError
        Ray or its workers cannot start, or the client app cannot be loaded in them.
    StateError
        Client states cannot be stored, for instance on a full disk.

    Whatever the ServerApp raises passes through.
    """
    backend = _checked(
        num_supernodes, backend_name, backend_config, enable_tf_gpu_growth, engine, num_actors, block_size
    )
    set_up_logging(verbose_logging)
    run_id = secrets.randbits(62)
    set_task_identity(run_id)
    config = dict(run_config or {})
    site = Site(run_id, num_supernodes, config, clock, seed)
    states = state_dir if isinstance(state_dir, StateStore) else StateStore(state_dir)
    context = Context(run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    with (
        _importable(app_dir),
        _engine(engine, client_app, site, backend, num_actors, num_gpus, ray_address) as runner,
        _seeded(seed),  # last: starting Ray draws from the generators too
    ):
        grid: Grid = SimulationGrid(
            new_run(run_id, config),
            runner,
            num_supernodes,
            states=states,
            clock=clock,
            block_size=block_size,
            vector_size=vector_size(client_app),
            seeded=seed is not None,
        )
        started = time.perf_counter()
        try:
            server_app(grid=meter(grid) if meter else grid, context=context)
        finally:
            if not isinstance(state_dir, StateStore):
                states.close()
        seconds = time.perf_counter() - started
        return SimulationResult(context, seconds, getattr(runner, "deaths", 0))


def _checked(
    num_supernodes: int,
    backend_name: str,
    backend_config: Mapping[str, Any] | None,
    enable_tf_gpu_growth: bool,
    engine: str,
    num_actors: int | None,
    block_size: int | None,
) -> Backend:
    if backend_name != "ray":
        raise unknown_name("backend_name", backend_name, ["ray"])
    if engine not in _ENGINES:
        raise unknown_name("engine", engine, _ENGINES)
    if enable_tf_gpu_growth:
        raise ConfigError("enable_tf_gpu_growth is not supported; set TF_FORCE_GPU_ALLOW_GROWTH=true instead")
    counts = {"num_supernodes": num_supernodes, "num_actors": num_actors, "block_size": block_size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected at least 1")
    return Backend.read(backend_config)


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """The folder on the search path, which workers copy."""
    if folder is not None and str(folder.absolute()) not in sys.path:
        sys.path.insert(0, str(folder.absolute()))
    yield


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with keep_global_generators():
        seed_global_generators(seed, purpose="server")
        yield


@contextmanager
def _engine(
    name: str,
    app: ClientApp,
    site: Site,
    backend: Backend,
    num_actors: int | None,
    num_gpus: float | None,
    ray_address: str | None,
) -> Iterator[Engine]:
    """The engine, closed again whatever happens."""
    if name == "inline":
        yield InlineEngine(app, site)
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from fedeff.simulation.ray_cluster import cluster, placements
    from fedeff.simulation.ray_engine import RayEngine

    gpus = backend.num_gpus if num_gpus is None else num_gpus
    with cluster(ray_address, backend.init_args):
        runner = RayEngine(app, site, placements(num_actors, backend.num_cpus, gpus))
        try:
            yield runner
        finally:
            runner.close()
