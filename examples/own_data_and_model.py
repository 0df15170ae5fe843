"""Your own dataset and model in ten lines: two interleaved spirals, a different mix for each client.

Run it with `python examples/own_data_and_model.py`.
"""

import numpy as np
import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.rng import generator
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg


# The ten lines: a model, one client's data, and how to train one on the other.
def model() -> nn.Module:
    """A network for points of the plane."""
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))


def data(partition: int, partitions: int) -> ClientData:
    """Sixty points to train on and sixty to test on, mostly of one spiral."""
    rng = generator(0, purpose="spirals", client=partition)
    labels = (rng.random(120) < rng.uniform(0.1, 0.9)).astype(np.int64)
    turn = rng.uniform(0.5, 4.5, 120)
    angle = turn + np.pi * labels
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / 4.5
    points += rng.normal(0, 0.08, points.shape)
    return ClientData(points[:60], labels[:60], points[60:], labels[60:])


client = client_app(model, data, LocalTraining(epochs=5, batch_size=10, optimizer="adam", learning_rate=0.01))
# From here on it is any Flower app.
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Fifteen rounds of twenty clients; all clients measure the model on their own test points."""
    torch.manual_seed(0)  # the initial model's; all else follows the strategy's and the client's seeds
    strategy = FedAvg(cohort=20, evaluate_clients=None)
    result = strategy.start(grid, ArrayRecord(model().state_dict()), num_rounds=15)
    print(f"accuracy {result.evaluate_metrics_clientapp[15]['eval-accuracy']:.3f}")


if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=100)
