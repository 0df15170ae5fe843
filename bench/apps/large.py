"""Rounds of large models: echo clients under a folding FedAvg of ours."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from bench.apps.clock import RoundClock
from bench.apps.echo import model
from fedeff.strategies import FedAvg
from fedeff.strategies.fedavg import FoldPlace

__all__ = ["server"]


def server(rounds: int, floats: int, arrays: int, fold: FoldPlace) -> tuple[ServerApp, RoundClock]:
    """A ServerApp that averages all clients' replies, and the clock that times its rounds."""
    app, clock = ServerApp(), RoundClock(_is_round_number)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        FedAvg(fold=fold).start(grid, model(floats, arrays), num_rounds=rounds, evaluate_fn=clock)

    return app, clock


def _is_round_number(server_round: int, arrays: ArrayRecord) -> None:
    """After k rounds of `x + 1` a model of zeros holds k everywhere; raises where it does not."""
    first = np.asarray(next(iter(arrays.values())).numpy())
    if not (first == server_round).all():
        raise RuntimeError(f"after round {server_round} the model holds {first[:3]}, expected {server_round}")
