"""Cycles with the real clients on the inline engine: against naive twins, with lost state, in blocks."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp

from fedeff.clients import ClientData, LocalTraining, client_app, train_loop
from fedeff.clients.data import prepared
from fedeff.core.layers import decode_record, group_layers, payload_bytes
from fedeff.core.parts import put, take
from fedeff.core.rng import generator
from fedeff.core.state import StateStore
from fedeff.grids import MeteredGrid
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies.byte_groups import byte_groups
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.fedavg import FedAvg
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.partial import PartialAvg

CLIENTS = 5
TRAINING = LocalTraining(steps=3, batch_size=4, learning_rate=0.1)


def new_model():
    return build("mlp", classes=4, input_shape=(1, 4, 4), seed=0)


def data(partition, partitions):
    rng, rows = np.random.default_rng(partition), 8 + 2 * partition
    return ClientData(rng.random((rows, 1, 4, 4), np.float32), rng.integers(0, 4, rows))


@dataclass
class Watched(MeteredGrid):
    """A metered Grid that drops clients' state before a round and counts what it dropped."""

    grid: object
    states: StateStore
    lost: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__(self.grid)
        self.fired: Counter[int] = Counter()
        self.rounds = 0
        self.sent: list[list] = []

    def send_and_receive(self, messages, *, timeout=None):
        held = list(messages)
        if not held:  # no federated evaluation
            return super().send_and_receive(messages, timeout=timeout)
        self.rounds += 1
        for partition in self.lost.get(self.rounds, ()):
            assert self.states.get(partition) is not None
            self.states.put(partition, None)
            self.fired[self.rounds] += 1
        self.sent.append(held)
        return super().send_and_receive(messages, timeout=timeout)


def run(strategy, rounds, *, vectorise="never", lost=None, training=TRAINING):
    """The model after each round, what the strategy said of each, and the Grid."""
    torch.set_num_threads(1)
    states, grids, models, told = StateStore(), [], [], []
    server = ServerApp()

    @server.main()
    def main(grid, context):
        strategy.start(
            grid, ArrayRecord(new_model().state_dict()), num_rounds=rounds, evaluate_fn=after_round
        )

    def after_round(server_round, arrays):
        if server_round:
            models.append(decode_record(arrays))
            told.append((strategy.refused, strategy.failed, len(strategy.need_full), strategy.synchronised))

    def meter(grid):
        grids.append(Watched(grid, states, dict(lost or {})))
        return grids[0]

    app = client_app(new_model, data, training, seed=1, vectorise=vectorise)
    run_simulation(server, app, CLIENTS, engine="inline", meter=meter, state_dir=states)
    states.close()
    return models, told, grids[0]


def step(weights, partition, server_round):
    rng = generator(1, purpose="batches", round=server_round, client=partition)
    own = data(partition, CLIENTS)
    return train_loop(new_model(), weights, prepared(own.train_x, own.train_y, "cpu"), TRAINING, rng).arrays


def mean_of(parts_by_client):
    sizes = {partition: len(data(partition, CLIENTS).train_y) for partition in parts_by_client}
    first = next(iter(parts_by_client.values()))
    return {
        part: (
            sum(sizes[p] * parts[part].astype(float) for p, parts in parts_by_client.items())
            / sum(sizes.values())
        ).astype(np.float32)
        for part in first
    }


def start():
    return {key: values.numpy().copy() for key, values in new_model().state_dict().items()}


def close(one, two, atol=1e-6):
    assert list(one) == list(two)
    for key, values in one.items():
        np.testing.assert_allclose(values, two[key], rtol=1e-5, atol=atol)


def nothing_lost(told):
    return all(refused == failed == () and need_full == 0 for refused, failed, need_full, _ in told)


def naive_partial(groups, by, sweeps, overlap, rounds):
    server = start()
    cut, ticks = byte_groups(server, groups, by), groups * sweeps
    for server_round in range(1, rounds + 1):
        t = (server_round - 1) % ticks
        if t == 0:
            clients = {p: dict(server) for p in range(CLIENTS)}
            sent, means = {}, {}
        for p, weights in clients.items():
            if overlap and t - 2 in means:
                held = take(weights, means[t - 2])
                moved = {part: held[part] + (m - sent[t - 2][p][part]) for part, m in means[t - 2].items()}
                clients[p] = put(weights, moved)
            if not overlap and t - 1 in means:
                clients[p] = put(weights, means[t - 1])
        clients = {p: step(weights, p, server_round) for p, weights in clients.items()}
        parts = tuple(server) if t == ticks - 1 or server_round == rounds else cut[t % groups]
        sent[t] = {p: take(weights, parts) for p, weights in clients.items()}
        means[t] = mean_of(sent[t])
        server = put(server, means[t])
        yield server


@pytest.mark.parametrize("vectorise", ["never", "always"])
@pytest.mark.parametrize(
    ("by", "sweeps", "overlap"),
    [("layer", 1, False), ("channel", 1, False), ("channel", 2, True), ("layer", 2, True)],
)
def test_partial_averaging_is_what_a_naive_twin_does(by, sweeps, overlap, vectorise):
    groups = 2
    strategy = PartialAvg(groups=groups, by=by, sweeps=sweeps, overlap=overlap)
    models, told, _ = run(strategy, 2 * groups * sweeps + 1, vectorise=vectorise)
    assert nothing_lost(told)
    assert [len(synchronised) for *_, synchronised in told][-1] == 2  # cut within a cycle, and closed
    for one, two in zip(models, naive_partial(groups, by, sweeps, overlap, len(models)), strict=True):
        close(one, two, atol=1e-5)


@pytest.mark.parametrize("vectorise", ["never", "always"])
@pytest.mark.parametrize("fold", ["server", "workers"])
def test_fedlama_keeps_local_layers_between_rounds(fold, vectorise):
    strategy = FedLAMA(phi=2, fold=fold)
    models, told, _ = run(strategy, 6, vectorise=vectorise)
    assert nothing_lost(told)
    layers = group_layers(start())
    server = start()
    for server_round, (model, (*_, synchronised)) in enumerate(zip(models, told, strict=True), 1):
        if server_round % 2:
            clients = {p: dict(server) for p in range(CLIENTS)}
        clients = {p: step(weights, p, server_round) for p, weights in clients.items()}
        due = [key for layer in synchronised for key in layers[layer]]
        means = mean_of({p: take(weights, due) for p, weights in clients.items()})
        server = put(server, means)
        clients = {p: put(weights, means) for p, weights in clients.items()}
        close(model, server, atol=1e-5)
    assert {synchronised for *_, synchronised in told[2::2]} != {tuple(layers)}  # some layer stayed behind


def test_cycles_of_one_round_are_fedavg_bit_for_bit():
    expected, _, _ = run(FedAvg(cohort=3, seed=2), 4)
    for strategy in (FedLAMA(phi=1, cohort=3, seed=2), PartialAvg(groups=1, cohort=3, seed=2)):
        models, told, _ = run(strategy, 4)
        assert nothing_lost(told)
        for one, two in zip(models, expected, strict=True):
            assert all(one[key].tobytes() == values.tobytes() for key, values in two.items())


def test_plain_diloco_is_fedavg_with_the_same_inner_optimiser():
    inner = {"optimizer": "adamw", "learning-rate": 0.001, "keep-optimizer": True}
    expected, _, _ = run(FedAvg(train_config=inner), 4)
    models, told, _ = run(DiLoCo(outer_learning_rate=1, outer_momentum=0), 4)
    assert nothing_lost(told)
    for one, two in zip(models, expected, strict=True):
        close(one, two)


@pytest.mark.parametrize(
    ("strategy", "at"),
    [
        (FedLAMA(phi=3), 5),  # in the second cycle: messages of the first are whole
        (PartialAvg(groups=2, by="channel", sweeps=2), 2),
        (PartialAvg(groups=2, sweeps=2, overlap=True), 2),
        (DiLoCo(fragments=2, sweeps=2), 2),
    ],
    ids=["fedlama", "partial", "overlapped", "diloco"],
)
@pytest.mark.parametrize("vectorise", ["never", "always"])
def test_lost_state_costs_a_client_one_round(strategy, at, vectorise):
    models, told, grid = run(strategy, at + 2, vectorise=vectorise, lost={at: (0, 3)})
    assert grid.fired == {at: 2}
    assert [need_full for _, _, need_full, _ in told] == [0] * (at - 1) + [2, 0, 0]
    assert all(refused == failed == () for refused, failed, _, _ in told)
    whole = payload_bytes(ArrayRecord(new_model().state_dict()))
    sent = [payload_bytes(message.content) == whole for message in grid.sent[at]]
    assert sent == [True, False, False, True, False]
    assert all(np.isfinite(values).all() for values in models[-1].values())


def test_where_all_state_is_lost_the_cycle_goes_on():
    _, told, grid = run(FedLAMA(phi=3), 4, lost={2: tuple(range(CLIENTS))})
    # The first cycle averages every layer, so each message of it is whole and needs no state.
    assert grid.fired == {2: 5}
    assert [need_full for _, _, need_full, _ in told] == [0, 0, 0, 0]
    partial, told, grid = run(PartialAvg(groups=2, sweeps=2), 4, lost={2: tuple(range(CLIENTS))})
    assert grid.fired == {2: 5}
    assert [need_full for _, _, need_full, _ in told] == [0, 5, 0, 0]
    assert all(np.array_equal(partial[0][key], partial[1][key]) for key in partial[0])
    assert not all(np.array_equal(partial[1][key], partial[2][key]) for key in partial[1])


def test_records_count_the_bytes_of_the_payloads():
    strategy = PartialAvg(groups=2, by="channel", sweeps=2)
    _, _, grid = run(strategy, 4, lost={2: (1,)})
    down = [sum(payload_bytes(message.content) for message in messages) for messages in grid.sent]
    assert [exchange.downlink_bytes for exchange in grid.exchanges] == down
    assert down[1] < down[0]
    assert grid.exchanges[1].uplink_bytes < grid.exchanges[3].uplink_bytes
