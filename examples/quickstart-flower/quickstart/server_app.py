"""The server, written for Flower."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Average the clients' models for some rounds and print the accuracy on digits no client saw."""
    torch.manual_seed(0)
    rounds = int(context.run_config["num-server-rounds"])
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(task.Net().state_dict()),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )
    print(f"accuracy {result.evaluate_metrics_serverapp[rounds]['accuracy']:.3f}")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Accuracy of the global model on digits that no client trains on."""
    net = task.Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    return MetricRecord({"accuracy": task.accuracy(net, *task.test_data())})
