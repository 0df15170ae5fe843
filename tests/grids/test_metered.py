"""What the meter counts of messages that are sent and received, whatever the strategy."""

import gc
import itertools
import math

import numpy as np
import pytest
from apps.echoing import (
    DROPPED,
    FAILED,
    Clock,
    Echo,
    arrays_of,
    bytes_in,
    error_to,
    fates,
    reply_to,
    request,
    sizes,
)
from flwr.app import Array, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.flower import set_task_identity
from fedeff.grids.cohort import Cohort, Folded, Receipt
from fedeff.grids.metered import MeteredGrid


@pytest.fixture(autouse=True, scope="module")
def task():
    set_task_identity(1)


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(st.tuples(sizes, fates), max_size=8), lazy=st.booleans(), one_pass=st.booleans())
def test_bytes_are_those_of_the_payloads(plan, lazy, one_pass):
    messages = [request(node, down) for node, (down, _) in enumerate(plan)]
    replies = {}
    for message, (_, fate) in zip(messages, plan, strict=True):
        if fate != DROPPED:
            made = error_to(message) if fate == FAILED else reply_to(message, fate, num_examples=1)
            replies[message.metadata.dst_node_id] = made
    grid = MeteredGrid(Echo(lambda message: replies.get(message.metadata.dst_node_id), lazy))
    got = list(grid.send_and_receive(iter(messages) if one_pass else messages))
    assert got == list(replies.values())
    if not plan:
        assert grid.exchanges == []
        return
    (record,) = grid.exchanges
    arrived = [reply for reply in replies.values() if reply.has_content()]
    assert record.downlink_bytes == sum(bytes_in(message.content) for message in messages)
    assert record.uplink_bytes == sum(bytes_in(reply.content) for reply in arrived)
    assert (record.sent, record.arrived) == (len(plan), len(arrived))
    assert record.errors == sum(fate == FAILED for _, fate in plan)
    assert record.missing == sum(fate == DROPPED for _, fate in plan)
    assert sorted(record.participants) == sorted(reply.metadata.src_node_id for reply in arrived)


@settings(max_examples=60, deadline=None)
@given(
    clients=st.lists(st.tuples(sizes, st.floats(-1e6, 1e6), st.integers(1, 50)), min_size=1, max_size=8),
    data=st.data(),
)
def test_folded_blocks_count_as_their_replies_one_by_one(clients, data):
    messages = [request(100 + i, kind="evaluate") for i in range(len(clients))]
    replies = [
        reply_to(message, up, eval_loss=loss, num_examples=n, partition_id=i)
        for i, (message, (up, loss, n)) in enumerate(zip(messages, clients, strict=True))
    ]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(clients)))) | {0, len(clients)})
    receipts = [
        Receipt(r.metadata.src_node_id, 0, bytes_in(r.content), dict(r.content["metrics"])) for r in replies
    ]
    blocks = [Folded(None, tuple(receipts[a:b])) for a, b in itertools.pairwise(cuts)]
    plain = MeteredGrid(Echo(lambda message: replies[message.metadata.dst_node_id - 100]))
    list(plain.send_and_receive(messages))
    folded = MeteredGrid(Echo(None))
    folded.grid.send_and_receive = lambda messages, timeout=None: iter(blocks)
    assert list(folded.send_and_receive(Cohort(messages))) == blocks
    (one,), (other,) = plain.exchanges, folded.exchanges
    for name in ("uplink_bytes", "downlink_bytes", "sent", "arrived", "errors", "missing"):
        assert getattr(one, name) == getattr(other, name)
    assert one.participants == other.participants == tuple(range(len(clients)))
    assert one.metrics == other.metrics
    assert one.worst_tenth == other.worst_tenth


def test_replies_are_read_one_at_a_time():
    echo = Echo(reply_to, lazy=True)
    grid = MeteredGrid(echo)
    replies = iter(grid.send_and_receive([request(node) for node in range(5)]))
    assert echo.answered == 0
    next(replies)
    next(replies)
    assert echo.answered == 2
    assert grid.exchanges == []
    assert len(list(replies)) == 3
    assert len(grid.exchanges) == 1
    assert next(replies, None) is None
    assert len(grid.exchanges) == 1


@pytest.mark.parametrize("end", ["close", "forget", "never read"])
def test_an_exchange_that_is_not_read_to_its_end_is_still_recorded(end):
    echo = Echo(reply_to, lazy=True)
    grid = MeteredGrid(echo)
    replies = grid.send_and_receive([request(node) for node in range(5)])
    if end != "never read":
        next(replies)
    if end == "close":
        replies.close()
        assert echo.closed
        assert len(grid.exchanges) == 1
    del replies
    gc.collect()
    (record,) = grid.exchanges
    read = 0 if end == "never read" else 1
    assert (record.arrived, record.missing) == (read, 5 - read)
    assert echo.closed == (read == 1)


def test_an_exchange_whose_engine_fails_is_recorded_and_the_failure_seen():
    def answer(message):
        if message.metadata.dst_node_id == 2:
            raise RuntimeError("an actor died")
        return reply_to(message)

    grid = MeteredGrid(Echo(answer, lazy=True))
    replies = grid.send_and_receive([request(node) for node in range(4)])
    with pytest.raises(RuntimeError, match="an actor died"):
        list(replies)
    (record,) = grid.exchanges
    assert (record.arrived, record.missing) == (2, 2)


def test_a_list_stays_that_list_and_a_cohort_that_cohort():
    echo = Echo(reply_to)
    cohort = Cohort([request(1), request(2)])
    replies = MeteredGrid(echo).send_and_receive(cohort, timeout=7.0)
    assert isinstance(replies, list)
    assert echo.received is cohort
    assert echo.timeout == 7.0


def test_a_generator_is_sent_as_it_is_made():
    made = []

    def messages():
        for node in range(3):
            made.append(node)
            yield request(node)

    class Peeking(Echo):
        def send_and_receive(self, messages, *, timeout=None):
            next(iter(messages))
            assert made == [0]
            return []

    grid = MeteredGrid(Peeking(reply_to))
    grid.send_and_receive(messages())
    assert grid.exchanges[0].sent == 1


def test_means_are_weighted_by_num_examples():
    weights, losses = [1, 2, 5], [3.0, 0.0, 1.0]

    def answer(message):
        i = message.metadata.dst_node_id
        return reply_to(message, train_loss=losses[i], num_examples=weights[i], partition_id=10 + i)

    grid = MeteredGrid(Echo(answer))
    grid.send_and_receive([request(i) for i in range(3)])
    (record,) = grid.exchanges
    assert record.metrics == {"train-loss": 1.0}  # (1*3 + 2*0 + 5*1) / 8
    assert record.participants == (10, 11, 12)
    assert record.worst_tenth == {}


def test_odd_metrics_do_no_harm():
    answers = [
        {"loss": math.nan, "num_examples": 4, "partition_id": math.nan},
        {"loss": 2.0, "num_examples": 0},
        {"loss": 4.0, "num_examples": 1, "curve": [1.0, 2.0]},
        {"loss": 6.0},
        {"empty": 1.0, "num_examples": 0},
    ]
    grid = MeteredGrid(Echo(lambda message: reply_to(message, **answers[message.metadata.dst_node_id])))
    grid.send_and_receive([request(i) for i in range(5)])
    (record,) = grid.exchanges
    assert record.metrics == {"loss": 5.0}
    assert record.participants == (0, 1, 2, 3, 4)


def test_clients_without_examples_are_not_the_worst():
    def answer(message):
        examples = message.metadata.dst_node_id
        return reply_to(message, eval_accuracy=0.5 if examples else 0.0, num_examples=examples)

    grid = MeteredGrid(Echo(answer))
    grid.send_and_receive([request(i, kind="evaluate") for i in range(3)])
    grid.send_and_receive([request(0, kind="evaluate")])
    assert [record.worst_tenth for record in grid.exchanges] == [{"eval-accuracy": 0.5}, {}]
    assert [record.metrics for record in grid.exchanges] == [{"eval-accuracy": 0.5}, {}]


@pytest.mark.parametrize(("clients", "tenth"), [(1, 1), (10, 1), (11, 2), (25, 3)])
def test_the_worst_tenth_of_federated_evaluation(clients, tenth):
    def answer(message):
        i = message.metadata.dst_node_id
        return reply_to(message, eval_accuracy=i / 100, eval_loss=float(i), seconds=1.0, num_examples=i + 1)

    grid = MeteredGrid(Echo(answer))
    grid.send_and_receive([request(i, kind="evaluate") for i in range(clients)])
    worst = grid.exchanges[0].worst_tenth
    assert worst == {
        "eval-accuracy": pytest.approx(sum(i / 100 for i in range(tenth)) / tenth),
        "eval-loss": pytest.approx(sum(range(clients - tenth, clients)) / tenth),
    }


def test_rounds_are_those_that_messages_name():
    grid = MeteredGrid(Echo(reply_to))
    grid.send_and_receive([request(1, server_round=7)])
    grid.send_and_receive([request(1, server_round=None, group_id="8", kind="train.secure")])
    grid.send_and_receive([request(1, server_round=None, kind="query")])
    grid.send_and_receive([request(1, server_round=None), request(2, server_round=None)])
    grid.send_and_receive([request(1, server_round=None, kind="evaluate")])
    seen = [(record.kind, record.server_round) for record in grid.exchanges]
    assert seen == [("train", 7), ("train", 8), ("query", 8), ("train", 9), ("evaluate", 9)]


def test_virtual_seconds_come_from_the_clock():
    clock = Clock()
    grid = MeteredGrid(Echo(reply_to, lazy=True, clock=clock), clock=clock)
    for _ in range(2):
        list(grid.send_and_receive([request(node) for node in range(4)]))
    assert [record.virtual_s for record in grid.exchanges] == [6.0, 6.0]
    assert all(record.wall_s >= 0 for record in grid.exchanges)


def test_everything_else_is_the_wrapped_grids():
    echo = Echo(reply_to)
    grid = MeteredGrid(echo)
    grid.set_run("the run")
    assert grid.run == "the run"
    assert grid.get_node_ids() == [4, 2]
    assert [node.node_id for node in grid.get_nodes()] == [4, 2]
    assert grid.create_message(RecordDict(), "query", 3, "g").metadata.dst_node_id == 3
    assert grid.a_run == "the run"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = grid.nothing_like_it


def test_a_stock_strategy_is_metered_unchanged():
    def answer(message):
        metrics = {"num_examples": 2} | (
            {"eval_loss": 1.0} if message.metadata.message_type == "evaluate" else {}
        )
        return reply_to(message, () if "eval_loss" in metrics else (3,), **metrics)

    class Evaluating(Echo):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            for reply in replies:
                if not reply.content["arrays"]:
                    del reply.content["arrays"]
            return replies

    records = []
    grid = MeteredGrid(Evaluating(answer), records.append)
    FedAvg().start(grid, arrays_of((3,)), num_rounds=2)
    assert [(record.kind, record.server_round) for record in records] == [
        ("train", 1),
        ("evaluate", 1),
        ("train", 2),
        ("evaluate", 2),
    ]
    payload = len(Array(np.zeros(3, np.float32)).data)
    assert [record.uplink_bytes for record in records] == [2 * payload, 0, 2 * payload, 0]
    assert {record.downlink_bytes for record in records} == {2 * payload}
    assert all(sorted(record.participants) == [2, 4] for record in records)
