"""The Grid's promises, on the inline engine: order, isolation, state, both ways of sending."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from apps import arithmetic
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff import errors
from fedeff.core.delays import Bimodal, VirtualClock
from fedeff.core.state import StateStore
from fedeff.grids import Cohort
from fedeff.simulation import run_simulation


def drive(main: Callable[[Grid, Context], None], clients: int, **options: object) -> None:
    run_simulation(
        arithmetic.driver_app(main), arithmetic.client_app, clients, **({"engine": "inline"} | options)
    )


def train_messages(grid: Grid, partitions: list[int]) -> list[Message]:
    nodes = list(grid.get_node_ids())
    content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
    return [Message(content, nodes[p], MessageType.TRAIN) for p in partitions]


def partitions_of(replies: list[Message]) -> list[int]:
    return [int(reply.content["metrics"]["partition-id"]) for reply in replies]


@settings(max_examples=20, deadline=None)
@given(cohort=st.sets(st.integers(0, 29), min_size=1), block_size=st.integers(1, 40), seed=st.integers(0, 99))
def test_replies_come_once_each_in_partition_order(cohort: set[int], block_size: int, seed: int) -> None:
    shuffled = sorted(cohort)
    random.Random(seed).shuffle(shuffled)

    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive(train_messages(grid, shuffled)))
        assert partitions_of(replies) == sorted(cohort)
        for reply, partition in zip(replies, sorted(cohort), strict=True):
            expected = arithmetic.trained(arithmetic.start_arrays()["weight"].numpy(), partition)
            np.testing.assert_array_equal(reply.content["arrays"]["weight"].numpy(), expected)

    drive(main, 30, block_size=block_size)


def test_a_client_cannot_spoil_what_another_client_or_the_server_holds() -> None:
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"config": ConfigRecord({"list": [1, 2]})})
        messages = [Message(content, node, MessageType.QUERY) for node in grid.get_node_ids()]
        seen = [reply.content["config"]["seen"] for reply in grid.send_and_receive(messages)]
        assert seen == [1, 1, 1]
        assert dict(content["config"]) == {"list": [1, 2]}

    drive(main, 3)


def test_state_survives_between_messages_and_a_second_message_waits_for_the_first() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive(train_messages(grid, [1, 0, 1, 1])))
        counts = [
            (int(r.content["metrics"]["partition-id"]), r.content["metrics"]["trained"]) for r in replies
        ]
        assert counts == [(0, 1), (1, 1), (1, 2), (1, 3)]

    drive(main, 2)


def test_a_client_that_raises_gets_an_error_reply_and_keeps_its_state() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive(train_messages(grid, [0, 1, 2])))
        assert [reply.has_error() for reply in replies] == [False, True, False]
        assert "the client's own mistake" in str(replies[1].error.reason)
        assert replies[1].metadata.src_node_id == list(grid.get_node_ids())[1]

    store = StateStore()
    drive(main, 3, run_config={"fault-1": "raise"}, state_dir=store, block_size=3)
    assert store.get(0) is not None
    assert store.get(1) is None


def test_a_client_that_returns_no_message_gets_an_error_reply() -> None:
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive(train_messages(grid, [0]))
        assert "expected a Message" in str(reply.error.reason)

    drive(main, 1, run_config={"fault-0": "no-message"})


def test_pushed_messages_are_pulled_once_each() -> None:
    def main(grid: Grid, context: Context) -> None:
        ids = list(grid.push_messages(train_messages(grid, [4, 2, 0, 2])))
        assert len(set(ids)) == 4
        got: list[Message] = []
        while len(got) < 4:
            got += list(grid.pull_messages(ids))
        assert sorted(partitions_of(got)) == [0, 2, 2, 4]
        assert {r.metadata.reply_to_message_id for r in got} == set(ids)
        assert list(grid.pull_messages(ids)) == []

    drive(main, 5, block_size=2)


def test_on_a_clock_replies_arrive_in_virtual_order_and_time_moves_to_them() -> None:
    delays = Bimodal(factor=8, probability=0.5, seed=3)
    clock = VirtualClock(delays, seconds_per_step=0.5, latency_s=0.25)

    def main(grid: Grid, context: Context) -> None:
        ids = list(grid.push_messages(train_messages(grid, list(range(8)))))
        expected = sorted((2 * 0.5 * delays.slowdown(p, 0) + 0.5, p) for p in range(8))
        got: list[tuple[float, int]] = []
        while len(got) < 8:
            got += [(clock.now_s, p) for p in partitions_of(list(grid.pull_messages(ids)))]
        assert sorted(got) == expected
        assert got == sorted(got)

    drive(main, 8, clock=clock)


def test_a_timeout_is_virtual_where_there_is_a_clock() -> None:
    delays = Bimodal(factor=8, probability=0.5, seed=3)
    clock = VirtualClock(delays, seconds_per_step=0.5)
    fast = [p for p in range(8) if delays.slowdown(p, 0) == 1]
    assert 0 < len(fast) < 8

    def main(grid: Grid, context: Context) -> None:
        replies = list(grid.send_and_receive(train_messages(grid, list(range(8))), timeout=2.0))
        assert partitions_of(replies) == fast
        assert clock.now_s == 2.0

    drive(main, 8, clock=clock)


def test_a_cohort_is_streamed_as_it_is_read() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(Cohort(train_messages(grid, [2, 1, 0])))
        assert iter(replies) is iter(replies)
        assert partitions_of([next(iter(replies))]) == [0]
        assert partitions_of(list(replies)) == [1, 2]

    drive(main, 3, block_size=1)


def test_a_stream_that_is_dropped_leaves_nothing_behind() -> None:
    def main(grid: Grid, context: Context) -> None:
        for _ in range(3):
            replies = iter(grid.send_and_receive(Cohort(train_messages(grid, [0, 1, 2]))))
            next(replies)
            replies.close()  # type: ignore[attr-defined]
        assert partitions_of(list(grid.send_and_receive(train_messages(grid, [1])))) == [1]

    drive(main, 3, block_size=1)


def test_a_message_to_an_unknown_node_is_refused() -> None:
    def main(grid: Grid, context: Context) -> None:
        message = Message(RecordDict(), 7, MessageType.TRAIN)
        with pytest.raises(errors.EngineError, match=r"get_node_ids\(\)"):
            grid.send_and_receive([message])

    drive(main, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_supernodes": 0}, "num_supernodes is 0"),
        ({"num_supernodes": 2, "block_size": 0}, "block_size is 0"),
        ({"num_supernodes": 2, "engine": "inlin"}, "did you mean 'inline'"),
        ({"num_supernodes": 2, "backend_name": "dask"}, "unknown backend_name"),
        ({"num_supernodes": 2, "backend_config": {"client_resource": {}}}, "did you mean 'client_resources'"),
        (
            {"num_supernodes": 2, "backend_config": {"client-resources": {"cpus": 1}}},
            "did you mean 'num_cpus'",
        ),
        (
            {"num_supernodes": 2, "backend_config": {"actor": {"tensorflow": True}}},
            "TF_FORCE_GPU_ALLOW_GROWTH",
        ),
        ({"num_supernodes": 2, "enable_tf_gpu_growth": True}, "TF_FORCE_GPU_ALLOW_GROWTH"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message) as caught:
        run_simulation(arithmetic.driver_app(lambda g, c: None), arithmetic.client_app, **arguments)
    assert "\n" not in str(caught.value)
