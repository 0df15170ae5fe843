"""One measured case in a process of its own; the last line it prints is its result as JSON.

python -m bench.case CASE key=value ...

CASE is `yardstick` (the unmodified app; prints the app's own line), `builtin`, `echo`, `large` or `sums`;
the keys are the arguments of the function of that name below. PYTHONPATH must hold the repository's root
and `bench/yardstick/flower_app`, which `bench/run_engine.py` sees to.
"""

import inspect
import json
import os
import sys
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

__all__ = ["builtin", "echo", "large", "sums", "yardstick"]

SEED = 0  # of partitions, models, cohorts and batches, wherever a seed is ours to give
FLOATS, ARRAYS = 11_000_000, 11  # a large model: 44 MB in arrays of 4 MB


def yardstick(engine: str, model: str, clients: int, cohort: int, rounds: int, workers: int) -> None:
    """The unmodified yardstick app, which prints its own line."""
    settings = {"model": model, "clients": clients, "cohort": cohort, "num-server-rounds": rounds}
    os.environ |= {f"YARDSTICK_{key}": str(value) for key, value in settings.items()}
    from yardstick.client_app import app as client_app
    from yardstick.server_app import app as server_app

    _simulate(engine, server_app, client_app, clients, workers)


def builtin(
    engine: str,
    model: str,
    clients: int,
    cohort: int,
    rounds: int,
    workers: int,
    fold: str,
    vectorise: str = "auto",
) -> dict[str, Any]:
    """The same training by fedeff's client and FedAvg."""
    from bench.apps.builtin import client, server

    app, clock, accuracies = server(model, cohort, rounds, fold)
    _simulate(engine, app, client(model, vectorise), clients, workers)
    return {"samples_s": clock.seconds, "accuracy": accuracies[-1]}


def echo(engine: str, nodes: int, rounds: int, workers: int, memory: int = 0) -> dict[str, Any]:
    """Echo clients of 100 kB, all nodes in every round; the first round warms up."""
    from bench.apps.echo import EchoRounds, client

    rounds_run = EchoRounds(nodes, rounds, memory=bool(memory))
    _simulate(engine, rounds_run.app(), client, nodes, workers)
    return {
        "samples_s": rounds_run.seconds[1:],
        "held_bytes": rounds_run.held_bytes,
        "round_pss_bytes": rounds_run.pss_bytes,
    }


def large(engine: str, clients: int, rounds: int, workers: int, fold: str) -> dict[str, Any]:
    """Echo clients of 44 MB under a folding FedAvg of ours; the first round warms up."""
    from bench.apps.echo import client
    from bench.apps.large import server

    app, clock = server(rounds, FLOATS, ARRAYS, fold)
    _simulate(engine, app, client, clients, workers)
    return {"samples_s": clock.seconds}


def sums(kind: str, clients: int, rounds: int) -> dict[str, Any]:
    """References in one process: kind `float64` or `float32` (sums in memory) or `same-work`."""
    from bench.sums import same_work, sum_in_memory

    if kind == "same-work":
        return {"samples_s": same_work(clients, rounds, FLOATS, ARRAYS)[1:]}
    return {"samples_s": sum_in_memory(clients, rounds, FLOATS, ARRAYS, kind)[1:]}


def _simulate(engine: str, server: ServerApp, client: ClientApp, clients: int, workers: int) -> None:
    if engine == "flower":
        from flwr.simulation import run_simulation as run_flower

        run_flower(server, client, clients, backend_config={"client_resources": {"num_cpus": 1}})
        return
    from fedeff.simulation import run_simulation

    run_simulation(server, client, clients, engine=engine, num_actors=workers)


def main(arguments: list[str]) -> None:
    """Run the case that the arguments name and print its result."""
    cases = {case.__name__: case for case in (yardstick, builtin, echo, large, sums)}
    case = cases[arguments[0]]
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    kinds = {name: p.annotation for name, p in inspect.signature(case).parameters.items()}
    result = case(**{key: kinds[key](value) for key, value in given.items()})
    if result is not None:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
