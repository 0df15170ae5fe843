"""Flower's own FedAvg and a client in NumPy, whose replies travel coded: one line on either side.

Run it with `python examples/coded_replies.py`.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedeff.clients import codec_mod
from fedeff.compression import RecordCodec
from fedeff.data import load, split
from fedeff.grids import CodecGrid, MeteredGrid
from fedeff.simulation import run_simulation

digits = load("digits")
parts = split(digits, "dirichlet:0.3", clients=20, seed=0)
client = ClientApp(mods=[codec_mod])  # the client's line: codes as each message asks for
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Five passes of softmax regression over a client's digits."""
    x, y = digits.train.batch(parts[int(context.node_config["partition-id"])])
    x, weights = x.reshape(len(x), -1), message.content["arrays"]["weights"].numpy()
    for _ in range(5):
        odds = np.exp(x @ weights)
        error = odds / odds.sum(axis=1, keepdims=True) - np.eye(10, dtype=np.float32)[y]
        weights = weights - 0.1 * x.T @ error / len(x)
    arrays, metrics = ArrayRecord({"weights": Array(weights)}), MetricRecord({"num-examples": len(x)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Twenty rounds of all clients."""
    metered = MeteredGrid(grid)
    coded = CodecGrid(metered, up=RecordCodec.of("tern_grad"))  # the server's line
    start = ArrayRecord({"weights": Array(np.zeros((64, 10), np.float32))})
    result = FedAvg(fraction_evaluate=0.0).start(coded, start, num_rounds=20)
    x, y = digits.test.batch()
    right = (x.reshape(len(x), -1) @ result.arrays["weights"].numpy()).argmax(axis=1) == y
    up, down = (sum(getattr(e, f"{way}link_bytes") for e in metered.exchanges) for way in ("up", "down"))
    print(f"{down} bytes down, as they are; {up} bytes up, coded")
    print(f"accuracy {right.mean():.3f}")


if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=20)
