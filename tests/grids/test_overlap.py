"""Rounds that overlap: who waits for what, over Grids that answer at once and over fedeff's engines."""

from collections.abc import Iterable

import pytest
from apps import arithmetic
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.delays import VirtualClock
from fedeff.core.flower import set_message_id, set_task_identity
from fedeff.core.layers import payload_bytes
from fedeff.grids import Cohort, MeteredGrid, OverlapGrid, PassingGrid
from fedeff.simulation import run_simulation


@pytest.fixture(autouse=True, scope="module")
def task():
    set_task_identity(1)


class Clock:
    """Real seconds that pass when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now_s, self.naps = 50.0, []
        monkeypatch.setattr("fedeff.grids.overlap.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr("fedeff.grids.overlap.time.sleep", self.sleep)

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Slow(Grid):
    """A Grid that answers a pull at once: node n is answered at its n-th pull, never if n is negative."""

    run = "a run"

    def __init__(self):
        self.under_way: dict[str, list] = {}
        self.pulls, self.exchanges, self.numbers = [], [], 0
        self.unsendable: set[int] = set()

    def set_run(self, run):
        self.run = run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self):
        return [3, 1]

    def get_nodes(self):
        return ["three", "one"]

    def push_messages(self, messages: Iterable[Message]) -> list:
        ids = []
        for message in messages:
            if message.metadata.dst_node_id in self.unsendable:
                ids.append(None)
                continue
            self.numbers += 1
            set_message_id(message, f"m{self.numbers}")
            self.under_way[f"m{self.numbers}"] = [message, message.metadata.dst_node_id]
            ids.append(f"m{self.numbers}")
        return ids

    def pull_messages(self, message_ids):
        wanted = list(message_ids)
        self.pulls.append(wanted)
        arrived = []
        for key in wanted:
            entry = self.under_way.get(key)
            if entry is not None:
                entry[1] -= 1
                if entry[1] == 0:
                    arrived.append(reply_to(self.under_way.pop(key)[0]))
        return arrived

    def send_and_receive(self, messages, *, timeout=None):
        self.exchanges.append((messages, timeout))
        return ["the wrapped grid's own replies"]


def reply_to(message: Message) -> Message:
    if message.metadata.dst_node_id == 13:
        return Message(Error(code=1, reason="raised"), reply_to=message)
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


def asked(*nodes: int, kind="train") -> list[Message]:
    return [Message(RecordDict({"config": ConfigRecord()}), node, kind) for node in nodes]


def nodes_of(replies) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def at_least(count: int):
    return lambda replies, outstanding: len(replies) >= count


def test_it_ends_with_enough_and_the_rest_comes_in_a_later_call(clock):
    grid = OverlapGrid(Slow(), at_least(2), poll_s=0.5)
    assert nodes_of(grid.send_and_receive(asked(4, 1, 2, 3))) == [1, 2]
    assert grid.outstanding == 2
    assert nodes_of(grid.send_and_receive(asked(1))) == [3, 1]
    assert nodes_of(grid.send_and_receive([])) == [4]
    assert grid.outstanding == 0
    assert clock.naps == []


def test_enough_sees_the_replies_so_far_and_how_many_are_outstanding(clock):
    seen = []

    def enough(replies, outstanding):
        seen.append((nodes_of(replies), outstanding))
        return False

    OverlapGrid(Slow(), enough).send_and_receive(asked(2, 1, 2))
    assert seen == [([], 3), ([1], 2)]


def test_where_there_is_enough_already_nothing_is_pulled(clock):
    slow = Slow()
    grid = OverlapGrid(slow, lambda replies, outstanding: True)
    assert grid.send_and_receive(asked(1, 1)) == []
    assert slow.pulls == []
    assert grid.outstanding == 2


def test_it_asks_at_a_modest_pace_and_for_all_that_is_outstanding(clock):
    slow = Slow()
    OverlapGrid(slow, at_least(2), poll_s=0.25).send_and_receive(asked(3, 1))
    assert slow.pulls == [["m1", "m2"], ["m1"], ["m1"]]
    assert clock.naps == [0.25]


def test_a_timeout_bounds_the_wait_for_replies_that_never_come(clock):
    grid = OverlapGrid(Slow(), at_least(2), poll_s=0.5)
    assert nodes_of(grid.send_and_receive(asked(1, -1), timeout=2.0)) == [1]
    assert clock.now_s == 52.0
    assert grid.outstanding == 1


def test_errors_are_replies(clock):
    replies = OverlapGrid(Slow(), at_least(1)).send_and_receive(asked(13))
    assert [reply.has_error() for reply in replies] == [True]


def test_messages_that_could_not_be_sent_are_answered_at_once_with_an_error(clock):
    slow = Slow()
    slow.unsendable = {2, 4}
    grid = OverlapGrid(slow, lambda replies, outstanding: False)
    messages = asked(2, 1, 4)
    replies = grid.send_and_receive(iter(messages))
    assert nodes_of(replies) == [2, 4, 1]
    assert [reply.has_error() for reply in replies] == [True, True, False]
    answered = [reply.metadata.reply_to_message_id for reply in replies]
    assert answered == [messages[i].metadata.message_id for i in (0, 2, 1)]
    assert len(set(answered)) == 3
    assert grid.outstanding == 0
    assert nodes_of(grid.send_and_receive(asked(2))) == [2]


@pytest.mark.parametrize("noted", [True, False])
def test_flower_s_grids_number_a_message_before_they_fail_to_send_it(clock, noted):
    """One gives None for it, the other leaves it out; both have given it an id."""

    class Numbering(Slow):
        def push_messages(self, messages):
            for message in messages:
                set_message_id(message, "its own")
            return [None] if noted else []

    (reply,) = OverlapGrid(Numbering(), at_least(1)).send_and_receive(asked(1))
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "its own"


def test_other_kinds_go_through_the_wrapped_grid_as_they_are(clock):
    slow = Slow()
    grid = OverlapGrid(slow, at_least(1))
    grid.send_and_receive(asked(9), timeout=0.1)
    cohort = Cohort(asked(1, 2, kind="evaluate"))
    replies = grid.send_and_receive(cohort, timeout=7)
    assert list(replies) == ["the wrapped grid's own replies"]
    assert slow.exchanges == [(cohort, 7)]
    assert grid.outstanding == 1


def test_a_cohort_of_train_messages_and_kinds_with_an_action_overlap_too(clock):
    grid = OverlapGrid(Slow(), at_least(1))
    assert nodes_of(grid.send_and_receive(Cohort(asked(1, 3)))) == [1]
    assert nodes_of(grid.send_and_receive(asked(1, kind="train.dga"))) == [1]
    assert grid.outstanding == 1


def test_everything_else_is_the_wrapped_grid_s():
    slow = Slow()
    slow.colour = "blue"
    grid = OverlapGrid(slow, at_least(1))
    grid.set_run("another run")
    assert (grid.run, slow.run) == ("another run", "another run")
    assert (grid.get_node_ids(), grid.get_nodes(), grid.colour) == ([3, 1], ["three", "one"], "blue")
    assert grid.create_message(RecordDict(), "train", 4, "g").metadata.dst_node_id == 4
    (key,) = grid.push_messages(asked(1))
    assert nodes_of(grid.pull_messages([key])) == [1]
    assert grid.outstanding == 0
    with pytest.raises(AttributeError):
        grid.missing  # noqa: B018


# --- over fedeff's engines, with a meter in between -----------------------------------------------


def drive(main, clients, **options):
    run_simulation(arithmetic.driver_app(main), arithmetic.client_app, clients, engine="inline", **options)


def train_messages(grid: Grid, partitions: list[int]) -> list[Message]:
    nodes = list(grid.get_node_ids())
    content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
    return [Message(content, nodes[p], "train") for p in partitions]


SIZE = payload_bytes(arithmetic.start_arrays())


def test_the_meter_counts_each_push_and_each_pull():
    def main(grid, context):
        metered = MeteredGrid(grid)
        over = OverlapGrid(metered, at_least(2))
        first = over.send_and_receive(train_messages(grid, [0, 1, 2, 3, 4]))
        second = over.send_and_receive(train_messages(grid, [5]))
        while over.outstanding:
            second += over.send_and_receive([])
        metered.close()
        exchanges = metered.exchanges
        assert sum(one.sent for one in exchanges) == 6
        assert sum(one.arrived for one in exchanges) == len(first) + len(second) == 6
        assert sum(one.missing for one in exchanges) == 0
        assert sum(one.downlink_bytes for one in exchanges) == 6 * SIZE
        uplink = sum(payload_bytes(reply.content) for reply in [*first, *second])
        assert sum(one.uplink_bytes for one in exchanges) == uplink

    drive(main, 6, block_size=1)


def test_on_a_clock_a_timeout_is_virtual_and_a_wait_in_vain_ends():
    clock = VirtualClock(seconds_per_step=1.0, latency_s=0.5)  # two steps and two ways: 3 s

    def main(grid, context):
        over = OverlapGrid(MeteredGrid(grid), lambda replies, outstanding: False)
        assert over.send_and_receive(train_messages(grid, [0, 1]), timeout=2.0) == []
        assert (clock.now_s, over.outstanding) == (2.0, 2)
        assert len(over.send_and_receive(train_messages(grid, [2]), timeout=1.0)) == 2
        assert (clock.now_s, over.outstanding) == (3.0, 1)
        assert len(over.send_and_receive([])) == 1
        assert clock.now_s == 5.0

    drive(main, 3, clock=clock)


class Losing(PassingGrid):
    """A Grid that loses every message that is pushed."""

    def push_messages(self, messages):
        for number, message in enumerate(messages):
            set_message_id(message, f"lost-{number}")
            yield f"lost-{number}"


def test_where_nothing_will_come_a_wait_lasts_as_long_as_it_may_and_without_a_limit_no_time():
    clock = VirtualClock(seconds_per_step=1.0)

    def main(grid, context):
        over = OverlapGrid(Losing(grid), lambda replies, outstanding: False)
        assert over.send_and_receive(train_messages(grid, [0])) == []
        assert clock.now_s == 0.0
        assert over.send_and_receive([], timeout=7.0) == []
        assert clock.now_s == 7.0
        assert over.outstanding == 1

    drive(main, 1, clock=clock)


def test_a_wait_in_vain_counts_in_the_round_that_waited_also_before_an_evaluation():
    clock = VirtualClock(seconds_per_step=1.0, latency_s=0.5)

    def main(grid, context):
        metered = MeteredGrid(grid, clock=clock)
        over = OverlapGrid(metered, lambda replies, outstanding: False)
        over.send_and_receive(train_messages(grid, [0]), timeout=2.0)  # one that takes 3 s
        assert sum(one.virtual_s for one in metered.exchanges) == 2.0
        content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
        over.send_and_receive([Message(content, grid.get_node_ids()[0], "evaluate")])
        over.send_and_receive([])
        assert sum(one.virtual_s for one in metered.exchanges) == pytest.approx(clock.now_s)

    drive(main, 1, clock=clock)


def test_an_evaluation_while_others_train_counts_its_time_once():
    clock = VirtualClock(seconds_per_step=1.0, latency_s=0.5)

    def main(grid, context):
        metered = MeteredGrid(grid, clock=clock)
        over = OverlapGrid(metered, at_least(1))
        over.send_and_receive(train_messages(grid, [0]))  # until 3 s
        over.send_and_receive(train_messages(grid, [0, 1]))  # until 6 s, both at once
        nodes = list(grid.get_node_ids())
        content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
        over.send_and_receive(train_messages(grid, [0]))
        over.send_and_receive([Message(content, nodes[1], "evaluate")])
        over.send_and_receive(train_messages(grid, [1]))
        assert sum(one.virtual_s for one in metered.exchanges) == pytest.approx(clock.now_s)

    drive(main, 2, clock=clock)
