"""Clients that return `x + 1`: what an engine costs when clients do nothing. Plain Flower."""

import time
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from bench.memory import own_pss_bytes

__all__ = ["EchoRounds", "client", "model"]

client = ClientApp()


@client.train()
def echo(message: Message, context: Context) -> Message:
    """The received arrays plus one."""
    arrays = ArrayRecord([x + 1 for x in _arrays(message).to_numpy_ndarrays()])
    metrics = MetricRecord({"num-examples": 1, "partition-id": int(context.node_config["partition-id"])})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def model(floats: int, arrays: int = 1) -> ArrayRecord:
    """`floats` zeros of float32, in so many arrays of one size."""
    return ArrayRecord([np.zeros(floats // arrays, np.float32) for _ in range(arrays)])


@dataclass
class EchoRounds:
    """A server that sends one array of `floats` float32 to all nodes and reads all replies, each round.

    A round's seconds are those of making the messages, sending them, and having all replies in a
    list; then the replies are checked, memory is read if `memory`, and the replies are dropped.
    """

    nodes: int
    rounds: int
    floats: int = 25_000
    memory: bool = False
    seconds: list[float] = field(default_factory=list)
    pss_bytes: list[int] = field(default_factory=list)
    held_bytes: int = 0  # array bytes of the replies of one round

    def app(self) -> ServerApp:
        """The ServerApp that runs the rounds."""
        app = ServerApp()
        app.main()(self._main)
        return app

    def _main(self, grid: Grid, context: Context) -> None:
        while len(ids := list(grid.get_node_ids())) < self.nodes:  # Flower's nodes appear one by one
            time.sleep(0.1)
        for server_round in range(self.rounds):
            self._round(grid, ids, server_round)

    def _round(self, grid: Grid, ids: list[int], server_round: int) -> None:
        begin = time.perf_counter()
        arrays = ArrayRecord([np.full(self.floats, server_round, np.float32)])
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})})
        messages = [Message(content=content, dst_node_id=i, message_type="train") for i in ids]
        replies = list(grid.send_and_receive(messages))
        self.seconds.append(time.perf_counter() - begin)
        self._check(replies, ids, server_round)
        if self.memory:
            self.pss_bytes.append(own_pss_bytes())

    def _check(self, replies: list[Message], ids: list[int], server_round: int) -> None:
        if sorted(reply.metadata.src_node_id for reply in replies) != sorted(ids):
            raise RuntimeError(f"{len(replies)} replies from {len(ids)} nodes, expected one from each")
        for reply in replies[:: max(1, len(replies) // 50)]:
            (x,) = _arrays(reply).to_numpy_ndarrays()
            if x.shape != (self.floats,) or not (x == server_round + 1).all():
                raise RuntimeError(f"a reply of round {server_round} is not x + 1")
        self.held_bytes = sum(len(array.data) for reply in replies for array in _arrays(reply).values())


def _arrays(message: Message) -> ArrayRecord:
    return cast(ArrayRecord, message.content["arrays"])
