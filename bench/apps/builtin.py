"""The yardstick's training by fedeff's own client and strategy: same samples, model, batches, rate."""

import functools

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from yardstick import task

from bench.apps.clock import RoundClock
from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.clients.app import Vectorise
from fedeff.models import build
from fedeff.strategies import FedAvg
from fedeff.strategies.fedavg import FoldPlace

__all__ = ["client", "server"]


def samples(partition: int, partitions: int) -> ClientData:
    """One client's rows of the yardstick's partition."""
    x, y, _, _ = task.data()
    rows = task.shards(partitions)[partition]
    return ClientData(x[rows].numpy(), y[rows].numpy())


def client(name: str, vectorise: Vectorise) -> ClientApp:
    """The built-in client with the yardstick's settings."""
    training = LocalTraining(
        epochs=1,
        batch_size=task.workload.BATCH,
        optimizer="sgd",
        learning_rate=task.workload.LEARNING_RATE,
    )
    return client_app(functools.partial(build, name), samples, training, vectorise=vectorise)


def server(name: str, cohort: int, rounds: int, fold: FoldPlace) -> tuple[ServerApp, RoundClock, list[float]]:
    """A ServerApp as the yardstick's; the clock that times its rounds; the test accuracy after each."""
    app, accuracies = ServerApp(), []
    _, _, images, labels = task.data()
    net = build(name)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        net.load_state_dict(arrays.to_torch_state_dict())
        with torch.no_grad():
            accuracies.append((net(images).argmax(1) == labels).float().mean().item())
        return MetricRecord({"accuracy": accuracies[-1]})

    clock = RoundClock(evaluate)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(cohort=cohort, fold=fold)
        initial = ArrayRecord(build(name).state_dict())
        strategy.start(grid, initial, num_rounds=rounds, evaluate_fn=clock)

    return app, clock, accuracies
