"""A naive NumPy client that keeps its model and answers with displacements, and ways to drive it.

A client's step in a round is a seeded draw less a tenth of its weights: it depends on where the client
stands, so whoever stands elsewhere than it should is seen. `faults` maps (partition, round) to what goes
wrong: "raise", "forget" (its state is lost before the message), "malformed", "request" and "reply" (lost
on the way), "unsent" (the Grid does not take the message, as Flower's do not where it is too large).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from apps import arithmetic
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedeff.core.flower import set_message_id
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.lists import NO_ROUND, entries
from fedeff.grids import MeteredGrid
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg

Arrays = dict[str, np.ndarray]
Faults = Mapping[tuple[int, int], str]
NO_FAULTS: Faults = {}


def start(dtype: str = "f8") -> Arrays:
    rng = np.random.default_rng(0)
    return {"fc.weight": rng.normal(size=(3, 4)).astype(dtype), "fc.bias": np.zeros(4, dtype)}


def examples_of(partition: int) -> int:
    return 3 + partition % 4


@dataclass
class Book:
    """What the clients saw: the weights each began a period with, and its displacement."""

    began: dict[tuple[int, int], Arrays] = field(default_factory=dict)
    displaced: dict[tuple[int, int], Arrays] = field(default_factory=dict)
    epochs: dict[tuple[int, int], int] = field(default_factory=dict)  # cycle by (partition, round)
    need_full: list[tuple[int, int]] = field(default_factory=list)
    fired: list[str] = field(default_factory=list)  # faults


def client_app(book: Book, faults: Faults = NO_FAULTS, steps: int = 2) -> ClientApp:
    """The client; it runs in the server's process, on the inline engine."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        config = message.content["config"]
        at = partition, int(config["server-round"])
        fault = faults.get(at)
        if fault in ("raise", "forget", "malformed"):
            book.fired.append(fault)
        if fault == "raise":
            raise RuntimeError("the client's own mistake")
        if fault == "forget":
            forget(context.state)
        before = weights_before(message, context.state)
        numbers: dict[str, int | float] = {"partition-id": partition, "num-steps": steps}
        if before is None:
            book.need_full.append(at)
            numbers |= {"num-examples": 0, "need-full": 1}
            return Message(RecordDict({"metrics": MetricRecord(numbers)}), reply_to=message)
        after = trained(before, at)
        displacement = {key: after[key] - before[key] for key in before}
        keep(context.state, config, after, displacement)
        book.began[at], book.displaced[at] = before, displacement
        book.epochs[at] = int(config.get("cycle", -1))
        answer = displacement if config.get("reply-with") == "displacement" else after
        if fault == "malformed":
            answer = {key: values[:1] for key, values in answer.items()}
        numbers |= {"num-examples": examples_of(partition), "loss": float(partition)}
        content = RecordDict({"arrays": encode_record(answer), "metrics": MetricRecord(numbers)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        numbers = {"num-examples": 1, "partition-id": int(context.node_config["partition-id"])}
        return Message(RecordDict({"metrics": MetricRecord({**numbers, "acc": 0.5})}), reply_to=message)

    return app


def trained(before: Arrays, at: tuple[int, int]) -> Arrays:
    rng = np.random.default_rng(at)
    return {
        key: (values + rng.normal(size=values.shape) - 0.1 * values).astype(values.dtype)
        for key, values in before.items()
    }


def weights_before(message: Message, state: RecordDict) -> Arrays | None:
    """The client's weights once the message is applied; None where it needs the whole model."""
    content, config = message.content, message.content["config"]
    if len(content["arrays"]):
        if "session" in state and state["session"]["cycle"] != config.get("cycle"):
            forget(state)
        return {key: values.copy() for key, values in decode_record(content["arrays"]).items()}
    if "session" not in state:
        return None
    kept = state["session"]
    if (kept["cycle"], kept["cycle-round"]) != (config["cycle"], config["cycle-round"] - 1):
        return None
    weights = {key: values.copy() for key, values in decode_record(state["model"]).items()}
    for key, values in decode_record(content.get("correction", ArrayRecord())).items():
        weights[key] = weights[key] + values
    for index in entries(config.get("corrects", []), NO_ROUND):
        for key, values in decode_record(state.pop(f"sent-{index}")).items():
            weights[key] = weights[key] - values
    return weights


def keep(state: RecordDict, config: ConfigRecord, after: Arrays, displacement: Arrays) -> None:
    if "cycle" not in config:
        return
    state["model"] = encode_record(after)
    state["session"] = ConfigRecord({key: config[key] for key in ("cycle", "cycle-round")})
    if config.get("keep-sent"):
        state[f"sent-{config['cycle-round']}"] = encode_record(displacement)


def forget(state: RecordDict) -> None:
    for key in list(state):
        del state[key]


@dataclass(frozen=True)
class OneSlow:
    """A delay model: the first client is eight times slower than the others up to an exchange."""

    until: int
    seed: int = 0

    def slowdown(self, client: int, round: int) -> float:
        return 8.0 if client == 0 and round < self.until else 1.0


class LossyGrid(MeteredGrid):
    """A Grid that loses requests and replies as `faults` tell; it also counts what travels."""

    def __init__(self, grid: Grid, faults: Faults, book: Book, clock: Any = None) -> None:
        super().__init__(grid, clock=clock)
        self.faults, self.book = faults, book
        self.sent: dict[str, tuple[int, int]] = {}
        nodes = sorted(grid.get_node_ids())
        self.partitions = {node: partition for partition, node in enumerate(nodes)}
        self.pushed: list[list[Message]] = []
        self.pulled: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        held = list(messages)
        at = [
            (self.partitions[m.metadata.dst_node_id], int(m.content["config"]["server-round"])) for m in held
        ]
        fates = [self.faults.get(where, "") for where in at]
        stopped = ("request", "unsent")
        super().push_messages([m for m, fate in zip(held, fates, strict=True) if fate not in stopped])
        for message, where, fate in zip(held, at, fates, strict=True):
            if fate in stopped:
                self.book.fired.append(fate)
                set_message_id(message, f"{fate}-{where[0]}-{where[1]}")
            self.sent[message.metadata.message_id] = where
        self.pushed.append(held)
        return [m.metadata.message_id for m, fate in zip(held, fates, strict=True) if fate != "unsent"]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        pulled = list(super().pull_messages(message_ids))
        kept = []
        for reply in pulled:
            if self.faults.get(self.sent[reply.metadata.reply_to_message_id]) == "reply":
                self.book.fired.append("reply")
            else:
                kept.append(reply)
        self.pulled += kept
        return kept


@dataclass
class Played:
    """A run: the model that each round began with (and the last one), and what came in each round."""

    models: list[Arrays] = field(default_factory=list)  # [0] is unused: rounds count from 1
    replies: list[list[Message]] = field(default_factory=lambda: [[]])
    metrics: list[MetricRecord | None] = field(default_factory=lambda: [None])
    lost: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    refused: list[list[str]] = field(default_factory=lambda: [[]])
    failed: list[int] = field(default_factory=lambda: [0])
    need_full: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    virtual_s: list[float] = field(default_factory=lambda: [0.0])
    grid: Any = None
    book: Book = field(default_factory=Book)

    def backlog(self, partition: int) -> list[int]:
        """By round, how many messages a client has to answer once it has that round's."""
        asked = [m.metadata for messages in self.grid.pushed for m in messages]
        own = [m for m in asked if self.grid.partitions[m.dst_node_id] == partition]
        backlogs, answered = [], set[str]()
        for server_round, replies in enumerate(self.replies[1:], 1):
            sent = {m.message_id for m in own if int(m.group_id) <= server_round}
            backlogs.append(len(sent - answered))
            answered |= {reply.metadata.reply_to_message_id for reply in replies}
        return backlogs


def play(
    strategy: FedAvg,
    clients: int,
    rounds: int,
    *,
    faults: Faults = NO_FAULTS,
    timeout: float | None = None,
    model: Arrays | None = None,
    first_round: int = 1,
    steps: int = 2,
    clock: Any = None,
    app: Callable[[Book], ClientApp] | None = None,
    after_round: Callable[[int], None] = lambda server_round: None,
    **options: Any,
) -> Played:
    """Rounds of a strategy over simulated clients, in this process."""
    played = Played()

    def main(grid: Grid, context: Context) -> None:
        played.grid = LossyGrid(grid, faults, played.book, clock)
        over = strategy.over(played.grid)
        current = start() if model is None else model
        played.models = [{}] * first_round + [current]
        for server_round in range(first_round, first_round + rounds):
            messages = strategy.configure_train(server_round, encode_record(current), ConfigRecord(), over)
            replies = list(over.send_and_receive(messages, timeout=timeout))
            arrays, metrics = strategy.aggregate_train(server_round, replies)
            current = current if arrays is None else dict(decode_record(arrays))
            played.models.append(current)
            played.replies.append(replies)
            played.metrics.append(metrics)
            played.lost.append(getattr(strategy, "lost", ()))
            played.refused.append([one.reason for one in strategy.refused])
            played.failed.append(len(strategy.failed))
            played.need_full.append(strategy.need_full)
            played.virtual_s.append(clock.now_s if clock else 0.0)
            after_round(server_round)

    client = client_app(played.book, faults, steps) if app is None else app(played.book)
    run_simulation(
        arithmetic.driver_app(main),
        client,
        clients,
        engine="inline",
        clock=clock,
        **({"block_size": 1} | options),
    )
    return played


def agree(one: Arrays, other: Arrays, rtol: float = 1e-12) -> None:
    """Equal to `rtol` relative to the largest value."""
    assert one.keys() == other.keys()
    for key, values in one.items():
        scale = max(1.0, float(np.abs(other[key]).max()))
        np.testing.assert_allclose(values, other[key], rtol=0, atol=rtol * scale)
