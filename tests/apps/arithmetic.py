"""A Flower app whose every answer can be worked out by hand: no torch, no data.

A client adds `(partition + 1) / 8` to every value (exact in float32), weighs `partition + 1`, and
counts in its state how often it trained. `FAULTS` maps a partition to what goes wrong there.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy


def trained(x: np.ndarray, partition: int) -> np.ndarray:
    return x + np.float32((partition + 1) / 8)


def _reply(message: Message, context: Context, arrays: dict[str, np.ndarray]) -> Message:
    partition = int(context.node_config["partition-id"])
    count = context.state.get("count", MetricRecord({"trained": 0}))
    context.state["count"] = MetricRecord({"trained": count["trained"] + 1})
    metrics = MetricRecord(
        {
            "num-examples": partition + 1,
            "partition-id": partition,
            "trained": context.state["count"]["trained"],
            "num-steps": 2,
        }
    )
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    arrays = {name: trained(a.numpy(), partition) for name, a in message.content["arrays"].items()}
    fault = str(context.run_config.get(f"fault-{partition}", ""))
    if fault == "raise":
        raise RuntimeError("the client's own mistake")
    if fault == "exit":
        os._exit(3)
    if fault == "kill-once" and _first_time(context):
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "other-keys":
        arrays = {"another": next(iter(arrays.values()))}
    if fault == "nan":
        arrays = {name: np.full_like(a, np.nan) for name, a in arrays.items()}
    if fault == "no-message":
        return None  # type: ignore[return-value]
    return _reply(message, context, arrays)


def _first_time(context: Context) -> bool:
    """True once for a marker file that outlives the process."""
    marker = Path(str(context.run_config["marker"]))
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    metrics = MetricRecord({"num-examples": partition + 1, "eval-loss": 1.0 / (partition + 1)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Says which process ran it, and spoils its message."""
    count = context.state.get("count", MetricRecord({"trained": 0}))["trained"]
    seen = len(message.content["config"])
    message.content["config"]["spoilt"] = True
    message.content["config"]["list"].append(99)
    reply = ConfigRecord({"pid": os.getpid(), "count": count, "seen": seen})
    return Message(RecordDict({"config": reply}), reply_to=message)


def start_arrays() -> ArrayRecord:
    values = np.arange(1200, dtype=np.float32).reshape(30, 40) / 7
    return ArrayRecord({"weight": Array(values), "bias": Array(np.zeros(3, np.float32))})


def server_app(strategy: Callable[[], Strategy], rounds: int = 3) -> ServerApp:
    """A plain ServerApp; the final model is in `context.state["arrays"]`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        result = strategy().start(grid, start_arrays(), num_rounds=rounds)
        context.state["arrays"] = result.arrays

    return app


def driver_app(main: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp around a function of the Grid."""
    app = ServerApp()
    app.main()(main)
    return app
