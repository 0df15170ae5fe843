"""Run the arithmetic app on Flower's own simulation engine: `python -m apps.flower_engine ours|stock OUT`.

In a process of its own, because that engine starts and stops Ray as it likes.
"""

import sys
import warnings

import numpy as np
from apps import arithmetic
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

CLIENTS, ROUNDS = 5, 2


def strategy(kind: str) -> Strategy:
    """Full participation, so that both engines draw the same cohort: everyone."""
    if kind == "ours":
        from fedeff import strategies

        return strategies.FedAvg(cohort=CLIENTS)
    return FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS)


def main(kind: str, out: str) -> None:
    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        import time

        while len(list(grid.get_node_ids())) < CLIENTS:
            time.sleep(0.1)
        arrays = strategy(kind).start(grid, arithmetic.start_arrays(), num_rounds=ROUNDS).arrays
        np.savez(out, **{name: array.numpy() for name, array in arrays.items()})

    from flwr.simulation import run_simulation

    run_simulation(
        app,
        arithmetic.client_app,
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"include_dashboard": False}},
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
