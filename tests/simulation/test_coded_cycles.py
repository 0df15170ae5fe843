"""Cycles whose clients code what they send: through drop-outs, server and clients stay on the same layers."""

from collections import Counter

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.clients.coding_state import read_coding_state
from fedeff.compression import RecordCodec
from fedeff.core.layers import decode_record, encode_record, payload_bytes
from fedeff.core.state import StateStore
from fedeff.grids import CodecGrid, Cohort, MeteredGrid, PassingGrid
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies import DiLoCo, FedLAMA, PartialAvg

CLIENTS, ROUNDS = 5, 6
FAULTS = {(1, 2): "reply", (2, 4): "forget", (3, 4): "raise", (0, 5): "request", (4, 3): "reply"}


def new_model():
    return build("mlp", classes=4, input_shape=(1, 4, 4), seed=0)


def data(partition, partitions):
    rng, rows = np.random.default_rng(partition), 8 + 2 * partition
    return ClientData(rng.random((rows, 1, 4, 4), np.float32), rng.integers(0, 4, rows))


class Watched(ClientApp):
    """The clients, with what each held of what it was sent by (partition, round)."""

    def __init__(self):
        super().__init__()
        training = LocalTraining(steps=3, batch_size=4, learning_rate=0.1)
        self.clients = client_app(new_model, data, training, seed=1, vectorise="never")
        self.held = {}

    def __call__(self, message, context):
        server_round = message.content["config"]["server-round"]
        partition = context.node_config["partition-id"]
        if FAULTS.get((partition, server_round)) == "raise":
            raise RuntimeError("the client's own mistake")
        reply = self.clients(message, context)
        replica = read_coding_state(context.state).replica
        if "arrays" in reply.content:  # else it has lost step, and asks for the whole model
            self.held[partition, server_round] = replica.records["arrays"]
        return reply


class Lossy(PassingGrid):
    """Another Grid that loses requests, replies and clients' states, and counts them."""

    def __init__(self, grid, states):
        super().__init__(grid)
        self.states, self.fired = states, Counter()

    def send_and_receive(self, messages, *, timeout=None):
        arriving = [message for message in messages if not self._befalls(message, "request")]
        for message in arriving:
            if self._befalls(message, "forget"):
                self.states.put(self._partition(message.metadata.dst_node_id), None)
        lost = [message for message in arriving if self._befalls(message, "reply")]
        silent = {message.metadata.dst_node_id for message in lost}
        replies = self.grid.send_and_receive(Cohort(arriving), timeout=timeout)
        return (reply for reply in replies if reply.metadata.src_node_id not in silent)

    def _befalls(self, message, fault):
        server_round = message.content["config"]["server-round"]
        at = self._partition(message.metadata.dst_node_id), server_round
        fires = FAULTS.get(at) == fault
        self.fired[fault] += fires
        return fires

    def _partition(self, node):
        return list(self.grid.get_node_ids()).index(node)


def run(strategy, codec):
    """The server's model after each round, the clients, the meter, and the Grid that lost things."""
    clients, states, models, grids = Watched(), StateStore(), [], []
    server = ServerApp()

    def meter(grid):
        lossy = Lossy(grid, states)
        metered = MeteredGrid(lossy)
        grids.extend((metered, lossy, CodecGrid(metered, up=RecordCodec.of(codec), seed=2)))
        return grids[2]

    @server.main()
    def main(grid, context):
        start = encode_record({k: v.numpy() for k, v in new_model().state_dict().items()})
        strategy.start(
            grid,
            start,
            num_rounds=ROUNDS,
            evaluate_fn=lambda at, arrays: models.append(decode_record(arrays)),
        )

    run_simulation(server, clients, CLIENTS, engine="inline", meter=meter, state_dir=states)
    return models, clients, *grids


@pytest.mark.parametrize("codec", ["tern_grad", "error_feedback(top_k(0.2))", "ef21(sign)"])
@pytest.mark.parametrize(
    "strategy",
    [lambda: FedLAMA(phi=2), lambda: PartialAvg(groups=2, by="channel"), lambda: DiLoCo(fragments=2)],
    ids=["fedlama", "partial", "diloco"],
)
def test_clients_hold_what_the_server_sent_before_each_round(strategy, codec):
    models, clients, metered, lossy, coded = run(strategy(), codec)
    assert len(models) == ROUNDS + 1
    seen = Counter()
    for (partition, server_round), held in clients.held.items():
        expected = models[server_round - 1]
        equal = [key for key in expected if np.array_equal(held.get(key), expected[key])]
        assert equal == list(expected), (partition, server_round)
        seen[server_round] += 1
    assert coded.take_refused() == []
    assert (lossy.fired["request"], lossy.fired["reply"]) == (1, 2)
    assert seen[1] == CLIENTS
    assert seen[ROUNDS] >= 1
    assert all(np.isfinite(values).all() for values in models[-1].values())
    assert all(not np.array_equal(values, models[0][key]) for key, values in models[-1].items())
    whole = payload_bytes(encode_record(models[0]))
    assert metered.exchanges[0].uplink_bytes < CLIENTS * whole / 2
