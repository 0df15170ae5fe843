"""Delayed averaging: the invariant under random delays, losses and gaps, and with the client itself."""

from collections import Counter

import numpy as np
import pytest
import torch
from apps.delaying import check_invariant, check_means, plus
from apps.displacing import Arrays, Book, Faults, agree, examples_of, forget, play, start
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.delays import Pareto, VirtualClock
from fedeff.core.layers import decode_record, encode_record
from fedeff.strategies import FedAvg
from fedeff.strategies.delayed import DelayedAvg
from fedeff.strategies.displacement import added, mean_displacement, moved
from fedeff.strategies.epochs import Epoch
from fedeff.strategies.weighted_sum import Total, layout_of


@given(
    delay=st.integers(0, 4),
    taking_part=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_invariant_holds_in_the_arithmetic_alone(delay, taking_part, seed):
    rng = np.random.default_rng(seed)
    origin = {"w": rng.normal(size=3)}
    layout = layout_of(encode_record(origin))
    epochs: dict[int, Epoch] = {}
    weights: dict[int, Arrays] = {}
    sent: dict[int, dict[int, Arrays]] = {}
    displaced: dict[int, dict[int, Arrays]] = {}
    means: dict[int, Arrays] = {}
    server = origin
    for period, clients in enumerate(taking_part, 1):
        horizon = period - 1 - delay
        if displaced.get(horizon):
            total = Total(weight=sum(1 + client for client in displaced[horizon]))
            total.sums = {"w": sum((1 + client) * one["w"] for client, one in displaced[horizon].items())}
            means[horizon] = mean_displacement(total, layout)
            server = moved(server, means[horizon])
        displaced[period] = {}
        for client in clients:
            if client not in epochs or epochs[client].period <= horizon:
                epochs[client], weights[client], sent[client] = Epoch(period), server, {}
            task = epochs[client].next_task(period, horizon)
            if task.since is not None:
                owed = [means[p] for p in range(task.since - delay, horizon + 1) if p in means]
                own = [sent[client].pop(index) for index in task.corrects]
                moved_by = added(owed, layout)["w"] - sum(one["w"] for one in own)
                weights[client] = {"w": weights[client]["w"] + moved_by}
            not_arrived = [
                displaced[p][client] for p in range(max(1, horizon + 1), period) if client in displaced[p]
            ]
            agree(weights[client], plus(origin, *(means[p] for p in means), *not_arrived))
            step = {"w": rng.normal(size=3) - 0.1 * weights[client]["w"]}
            weights[client] = plus(weights[client], step)
            sent[client][task.index] = displaced[period][client] = step


CLIENTS, ROUNDS = 4, 9
kinds = st.sampled_from(["raise", "forget", "malformed", "request", "reply", "unsent"])
plans = st.dictionaries(st.tuples(st.integers(0, CLIENTS - 1), st.integers(1, ROUNDS)), kinds, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    delay=st.integers(0, 3),
    cohort=st.sampled_from([None, 1, 3]),
    faults=plans,
    shape=st.sampled_from([1.2, 3.0]),
    timeout=st.sampled_from([None, 0.5, 3.0]),
    seed=st.integers(0, 999),
)
def test_the_invariant_holds_under_delays_losses_and_gaps(delay, cohort, faults, shape, timeout, seed):
    clock = VirtualClock(Pareto(shape, seed=seed), seconds_per_step=0.5, latency_s=0.5)
    played = play(
        DelayedAvg(delay=delay, cohort=cohort, seed=seed),
        CLIENTS,
        ROUNDS,
        faults=faults,
        timeout=timeout,
        clock=clock,
    )
    check_invariant(played, delay)
    check_means(played, delay, faults)


def test_the_plans_of_faults_do_fire():
    """What the test above draws from does happen, and the checks do see a client that stands elsewhere."""
    faults = {(0, 2): "raise", (1, 3): "forget", (2, 2): "malformed", (3, 2): "request", (0, 5): "reply"}
    faults[2, 5] = "unsent"
    clock = VirtualClock(seconds_per_step=0.5, latency_s=0.5)
    played = play(DelayedAvg(delay=2), CLIENTS, ROUNDS, faults=faults, clock=clock)
    assert Counter(played.book.fired) == dict.fromkeys(faults.values(), 1)
    check_invariant(played, 2)
    played.book.began[1, 7] = plus(played.book.began[1, 7], {key: v + 1e-9 for key, v in start().items()})
    with pytest.raises(AssertionError):
        check_invariant(played, 2)


# --- with the client itself -----------------------------------------------------------------------


class DoubleLogistic(nn.Module):
    """In float64, so that the invariant can be held to 1e-12."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.double())


class Watched(ClientApp):
    """The built-in client, with what it began each period with written down."""

    def __init__(self, book: Book, faults: Faults) -> None:
        super().__init__()
        self.book, self.faults = book, faults
        training = LocalTraining(steps=3, batch_size=2, learning_rate=0.5)
        self.client = client_app(DoubleLogistic, few_samples, training, vectorise="never")

    def __call__(self, message: Message, context: Context) -> Message:
        config = message.content["config"]
        at = int(context.node_config["partition-id"]), int(config["server-round"])
        fault = self.faults.get(at)
        if fault == "raise":
            raise RuntimeError("the client's own mistake")
        if fault == "forget":
            forget(context.state)
        reply = self.client(message, context)
        if "need-full" in reply.content["metrics"]:
            self.book.need_full.append(at)
            return reply
        displacement = decode_record(reply.content["arrays"])
        after = decode_record(context.state["local-model"])
        self.book.began[at] = {key: after[key] - displacement[key] for key in after}
        self.book.displaced[at] = displacement
        self.book.epochs[at] = int(config["cycle"])
        return reply


def few_samples(partition: int, partitions: int) -> ClientData:
    rng = np.random.default_rng(partition)
    count = examples_of(partition)
    return ClientData(rng.normal(size=(count, 4)), rng.integers(0, 3, count))


def logistic_start() -> Arrays:
    rng = np.random.default_rng(1)
    return {"fc.weight": rng.normal(size=(3, 4)), "fc.bias": np.zeros(3)}


real_kinds = st.sampled_from(["raise", "forget", "request", "reply"])


@settings(max_examples=10, deadline=None)
@given(
    delay=st.integers(0, 3),
    cohort=st.sampled_from([None, 3]),
    faults=st.dictionaries(
        st.tuples(st.integers(0, CLIENTS - 1), st.integers(1, ROUNDS)), real_kinds, max_size=8
    ),
    seed=st.integers(0, 999),
)
def test_the_invariant_holds_with_the_client_itself(delay, cohort, faults, seed):
    played = play(
        DelayedAvg(delay=delay, cohort=cohort, seed=seed),
        CLIENTS,
        ROUNDS,
        faults=faults,
        model=logistic_start(),
        clock=VirtualClock(Pareto(1.2, seed=seed), seconds_per_step=0.5, latency_s=0.5),
        app=lambda book: Watched(book, faults),
    )
    assert played.book.began
    check_invariant(played, delay)
    check_means(played, delay, faults)


def test_without_delay_the_client_itself_comes_to_fedavg_too():
    def final(strategy: FedAvg) -> Arrays:
        training = LocalTraining(steps=3, batch_size=2, learning_rate=0.5)
        client = client_app(DoubleLogistic, few_samples, training)
        return play(strategy, 5, 4, model=logistic_start(), app=lambda book: client).models[-1]

    agree(final(DelayedAvg(delay=0)), final(FedAvg()))
