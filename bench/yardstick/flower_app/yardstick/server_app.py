"""The server, as any Flower user would write it; prints the median seconds per round."""

import statistics
import time

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from yardstick import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    name, clients, cohort, rounds = (
        task.setting(context, key) for key in ("model", "clients", "cohort", "num-server-rounds")
    )
    model = task.workload.MODELS[name]
    _, _, images, labels = task.data()
    ticks: list[float] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        ticks.append(time.perf_counter())
        net = model()
        net.load_state_dict(arrays.to_torch_state_dict())
        with torch.no_grad():
            accuracy = (net(images).argmax(1) == labels).float().mean().item()
        ticks.append(time.perf_counter())
        return MetricRecord({"accuracy": accuracy})

    torch.manual_seed(0)
    strategy = FedAvg(fraction_train=cohort / clients, fraction_evaluate=0.0, min_available_nodes=clients)
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(model().state_dict()), num_rounds=rounds, evaluate_fn=evaluate
    )
    seconds = [after - before for before, after in zip(ticks[1::2], ticks[2::2], strict=False)]
    accuracy = result.evaluate_metrics_serverapp[rounds]["accuracy"]
    median_s = statistics.median(seconds[1:])
    print(
        f"yardstick {name} clients={clients} cohort={cohort} median_s={median_s:.3f} accuracy={accuracy:.3f}",
        flush=True,
    )
