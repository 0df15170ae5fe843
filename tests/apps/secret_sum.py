"""Flower's legacy SecAgg+ workflow, as its documentation has it: a NumPyClient behind a mod."""

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp


class Adds(NumPyClient):
    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:
        return [p + (self.partition + 1) / 8 for p in parameters], 1, {}

    def evaluate(self, parameters: list[np.ndarray], config: dict) -> tuple[float, int, dict]:
        return 0.0, 1, {}


client_app = ClientApp(
    client_fn=lambda context: Adds(int(context.node_config["partition-id"])).to_client(),
    mods=[secaggplus_mod],
)


def server_app(found: list[np.ndarray]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        class Keeping(FedAvg):
            def aggregate_fit(self, server_round, results, failures):
                parameters, metrics = super().aggregate_fit(server_round, results, failures)
                from flwr.common import parameters_to_ndarrays

                found[:] = parameters_to_ndarrays(parameters)
                return parameters, metrics

        strategy = Keeping(
            fraction_evaluate=0.0,
            min_available_clients=4,
            initial_parameters=ndarrays_to_parameters([np.zeros((4, 5)), np.ones(3)]),
        )
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=2), strategy=strategy)
        workflow = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, clipping_range=8.0)
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)

    return app
