"""One measured case in a process of its own; the last line it prints is its result as JSON.

python -m bench.case CASE key=value ...

CASE is `yardstick` (the unmodified app; prints the app's own line), `builtin`, `echo`, `large`, `layerwise`
or `sums`; the keys are the arguments of the function of that name below. PYTHONPATH must hold the
repository's root and `bench/yardstick/flower_app`, which `bench/harness.py` sees to.
"""

import inspect
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, get_origin

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedeff.core.state import StateStore

__all__ = ["builtin", "echo", "large", "layerwise", "sums", "yardstick"]

SEED = 0  # of partitions, models, cohorts and batches, wherever a seed is ours to give
FLOATS, ARRAYS = 11_000_000, 11  # a large model: 44 MB in arrays of 4 MB
Engine = Literal["ray", "inline", "flower"]
Fold = Literal["server", "workers"]


def yardstick(engine: Engine, model: str, clients: int, cohort: int, rounds: int, workers: int) -> None:
    """The unmodified yardstick app, which prints its own line."""
    settings = {"model": model, "clients": clients, "cohort": cohort, "num-server-rounds": rounds}
    os.environ |= {f"YARDSTICK_{key}": str(value) for key, value in settings.items()}
    from yardstick.client_app import app as client_app
    from yardstick.server_app import app as server_app

    _simulate(engine, server_app, client_app, clients, workers)


def builtin(
    engine: Engine,
    model: str,
    clients: int,
    cohort: int,
    rounds: int,
    workers: int,
    fold: Fold,
    vectorise: Literal["auto", "always", "never"] = "auto",
) -> dict[str, Any]:
    """The same training by fedeff's client and FedAvg."""
    from bench.apps.builtin import client, server

    app, clock, accuracies = server(model, cohort, rounds, fold)
    _simulate(engine, app, client(model, vectorise), clients, workers)
    return {"samples_s": clock.seconds, "accuracy": accuracies[-1]}


def echo(engine: Engine, nodes: int, rounds: int, workers: int, memory: int = 0) -> dict[str, Any]:
    """Echo clients of 100 kB, all nodes in every round; the first round warms up."""
    from bench.apps.echo import EchoRounds, client

    rounds_run = EchoRounds(nodes, rounds, memory=bool(memory))
    _simulate(engine, rounds_run.app(), client, nodes, workers)
    return {
        "samples_s": rounds_run.seconds[1:],
        "held_bytes": rounds_run.held_bytes,
        "round_pss_bytes": rounds_run.pss_bytes,
    }


def large(engine: Engine, clients: int, rounds: int, workers: int, fold: Fold) -> dict[str, Any]:
    """Echo clients of 44 MB under a folding FedAvg of ours; the first round warms up."""
    from bench.apps.echo import client
    from bench.apps.large import server

    app, clock = server(rounds, FLOATS, ARRAYS, fold)
    _simulate(engine, app, client, clients, workers)
    return {"samples_s": clock.seconds}


def layerwise(
    model: str, clients: int, cohort: int, rounds: int, workers: int, fold: Fold, phi: int
) -> dict[str, Any]:
    """The built-in client under FedLAMA, or FedAvg for `phi` 0; and what all clients kept at the end."""
    from bench.apps.builtin import client
    from bench.apps.layerwise import sample_means, server, strategy

    app, clock, check = server(strategy(phi, cohort, fold), model, rounds)
    with tempfile.TemporaryDirectory() as folder:
        states = StateStore(Path(folder))
        _simulate("ray", app, client(model, "auto"), clients, workers, states)
        on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    if phi > 1 and rounds > phi and not check.partial_rounds:
        raise RuntimeError(f"no round of {rounds} averaged a part of the layers: nothing was measured")
    return {
        "samples_s": sample_means(clock.seconds),
        "cpu_s": check.cpu_s_per_round,
        "partial_rounds": check.partial_rounds,
        "clients_with_state": len(states),
        "state_memory_bytes": states.held_bytes,
        "state_disk_bytes": on_disk,
    }


def sums(kind: str, clients: int, rounds: int) -> dict[str, Any]:
    """References in one process: kind `float64` or `float32` (sums in memory) or `same-work`."""
    from bench.sums import same_work, sum_in_memory

    if kind == "same-work":
        return {"samples_s": same_work(clients, rounds, FLOATS, ARRAYS)[1:]}
    return {"samples_s": sum_in_memory(clients, rounds, FLOATS, ARRAYS, kind)[1:]}


def _simulate(
    engine: Engine,
    server: ServerApp,
    client: ClientApp,
    clients: int,
    workers: int,
    states: StateStore | None = None,
) -> None:
    if engine == "flower":
        from flwr.simulation import run_simulation as run_flower

        run_flower(server, client, clients, backend_config={"client_resources": {"num_cpus": 1}})
        return
    from fedeff.simulation import run_simulation

    run_simulation(server, client, clients, engine=engine, num_actors=workers, state_dir=states)


def _read(kind: Any, text: str) -> Any:
    """The value of that kind: a number, or one of the words of a Literal."""
    return text if get_origin(kind) is Literal else kind(text)


def main(arguments: list[str]) -> None:
    """Run the case that the arguments name and print its result."""
    cases = {case.__name__: case for case in (yardstick, builtin, echo, large, layerwise, sums)}
    case = cases[arguments[0]]
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    kinds = {name: p.annotation for name, p in inspect.signature(case).parameters.items()}
    result = case(**{key: _read(kinds[key], value) for key, value in given.items()})
    if result is not None:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
