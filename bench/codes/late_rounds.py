"""Federated runs in which some clients are always late, on the virtual clock: who holds what, who is slow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle, islice

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray
from torch import nn

from fedeff.app.evaluation import Evaluation
from fedeff.clients import BlockClientApp, ClientData, LocalTraining, client_app
from fedeff.core.delays import VirtualClock
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.rng import generator
from fedeff.data import Dataset, load
from fedeff.simulation import run_simulation
from fedeff.simulation.grid import FIRST_NODE_ID
from fedeff.strategies import FedAvg
from fedeff.strategies.missing import Situation, Vector
from fedeff.strategies.missing.span_oracle import span_oracle

__all__ = ["Regime", "SpanOracle", "play"]

Value = bool | int | float | str


@dataclass(frozen=True)
class Regime:
    """A task: the first `slow` clients take `factor` time units a round, the others one.

    With `exclusive` the slow clients hold the last three classes and nobody else does; each client holds
    `classes` of those of its kind. Without it every client holds rows of all.
    """

    exclusive: bool
    clients: int = 100
    slow: int = 30
    factor: float = 8.0
    rows: int = 300  # of each client
    classes: int = 2
    steps: int = 10
    batch: int = 10
    learning_rate: float = 0.1
    units: int = 64  # of virtual time

    def told(self) -> Mapping[str, Value]:
        """All that a result depends on."""
        return asdict(self)


@dataclass(frozen=True)
class _SlowFirst:
    """A delay model: the first clients are always slower."""

    slow: int
    factor: float
    seed: int = 0

    def slowdown(self, client: int, round: int) -> float:
        return self.factor if client < self.slow else 1.0


def play(regime: Regime, strategy: FedAvg, seed: int, marks: tuple[int, ...]) -> dict[int, float]:
    """The global model's test accuracy, in [0, 1], at some times: that of the last round that was over."""
    clock = VirtualClock(_SlowFirst(regime.slow, regime.factor), seconds_per_step=1 / regime.steps)
    first = _cnn(seed).state_dict()
    models = [(0.0, encode_record({key: values.numpy() for key, values in first.items()}))]
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        over, server_round = strategy.over(grid), 0
        while clock.now_s < regime.units - 1e-6:
            server_round += 1
            _, model = models[-1]
            messages = strategy.configure_train(server_round, model, ConfigRecord(), over)
            merged, _ = strategy.aggregate_train(server_round, over.send_and_receive(messages))
            models.append((clock.now_s, model if merged is None else merged))

    run_simulation(server, _clients_of(regime, seed), regime.clients, engine="inline", clock=clock)
    score = Evaluation(_cnn(), _dataset().test)
    at = {mark: max(n for n, (now_s, _) in enumerate(models) if now_s <= mark + 1e-6) for mark in marks}
    scores = {n: score(models[n][1]).accuracy for n in set(at.values())}
    return {mark: scores[n] for mark, n in at.items()}


def _clients_of(regime: Regime, seed: int) -> BlockClientApp:
    """The clients, who train a round's steps on rows of their own."""
    held = _rows(regime, seed)

    def data(partition: int, partitions: int) -> ClientData:
        return ClientData(*_dataset().train.batch(held[partition]))

    training = LocalTraining(steps=regime.steps, batch_size=regime.batch, learning_rate=regime.learning_rate)
    return client_app(_cnn, data, training, seed=seed, vectorise="always")


class SpanOracle:
    """What no server has: an estimator that is told what missing clients would answer, at no cost in time.

    It asks them from the round's own model and gives the nearest that any sum of the basis could come.
    """

    def __init__(self, regime: Regime, seed: int) -> None:
        self._app, self._clients = _clients_of(regime, seed), regime.clients

    def learn(self, situation: Situation) -> None:
        """Nothing."""

    def needed_rounds(self) -> set[int]:
        """None."""
        return set()

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """What of the truth lies in the span."""
        latest = situation.history.latest
        truths = self._truths(situation)
        return {node: span_oracle(situation, latest[node], truth) for node, truth in truths.items()}

    def _truths(self, situation: Situation) -> dict[int, Vector]:
        model: ArrayRecord = encode_record(situation.layers.arrays(situation.model))
        config = ConfigRecord({"server-round": situation.server_round})
        nodes = situation.missing
        messages = [Message(RecordDict({"arrays": model, "config": config}), node, "train") for node in nodes]
        contexts = [self._context(node) for node in nodes]
        answers = self._app.run_block(messages, contexts) if nodes else []
        found = {}
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            arrays = decode_record(answer.content.array_records["arrays"])
            found[node] = situation.layers.vector(arrays) - situation.model
        return found

    def _context(self, node: int) -> Context:
        place: dict[str, Value] = {"partition-id": node - FIRST_NODE_ID, "num-partitions": self._clients}
        return Context(0, node, place, RecordDict(), {})


def _rows(regime: Regime, seed: int) -> list[NDArray[np.int64]]:
    """The training rows of each client; no row is held twice."""
    rng, labels = generator(seed, purpose="rows"), _dataset().labels
    if not regime.exclusive:
        dealt = rng.permutation(len(labels))
        return [dealt[c * regime.rows : (c + 1) * regime.rows] for c in range(regime.clients)]
    left = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    kinds = {True: cycle(sorted(left)[-3:]), False: cycle(sorted(left)[:-3])}
    held = []
    for client in range(regime.clients):
        mine = []
        for label in islice(kinds[client < regime.slow], regime.classes):
            mine.append(left[label][: regime.rows // regime.classes])
            left[label] = left[label][regime.rows // regime.classes :]
        held.append(np.concatenate(mine))
    return held


def _cnn(seed: int = 0) -> nn.Module:
    """A small network, whose clients are trained side by side: 4,000 times in a run of 64 units."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


@cache
def _dataset() -> Dataset:
    return load("fashion-mnist")
