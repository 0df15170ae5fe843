"""Rounds that end at a deadline: what is waited for, what comes late, who is not asked again."""

from collections.abc import Sequence

import pytest
from apps import arithmetic
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as StockFedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.delays import VirtualClock
from fedeff.core.errors import ConfigError
from fedeff.core.flower import set_message_id, set_task_identity
from fedeff.core.layers import decode_record
from fedeff.grids import Cohort, DeadlineGrid, MeteredGrid
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg


@pytest.fixture(autouse=True, scope="module")
def task():
    set_task_identity(1)


class Paces:
    """A delay model: client i takes `paces[i]` times as long as the nominal one."""

    def __init__(self, *paces: float, seed: int = 0):
        self.paces, self.seed = paces, seed

    def slowdown(self, client, round):
        return self.paces[client]


class Run:
    """Calls of a DeadlineGrid over an engine whose clients take `paces` seconds; a call names partitions."""

    def __init__(self, grid: Grid, clock: VirtualClock, **options) -> None:
        self.clock, self.meter = clock, MeteredGrid(grid, clock=clock)
        self.grid = DeadlineGrid(self.meter, **options)
        self.nodes = list(grid.get_node_ids())
        self.asked: dict[str, int] = {}  # call in which a message was sent, by id
        self.calls = 0

    def __call__(self, *partitions: int, timeout: float | None = None) -> list[tuple[int, int]]:
        """The partitions of the replies, in their order, each with the number of the call that asked."""
        self.calls += 1
        content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
        messages = [Message(content, self.nodes[p], "train") for p in partitions]
        replies = list(self.grid.send_and_receive(Cohort(messages), timeout=timeout))
        self.asked |= {m.metadata.message_id: self.calls for m in messages if m.metadata.message_id}
        return [
            (self.nodes.index(reply.metadata.src_node_id), self.asked[reply.metadata.reply_to_message_id])
            for reply in replies
        ]


def over(*paces: float, faults: dict[str, str] | None = None, **options):
    """Runs a function of a `Run`, on the inline engine."""

    def decorate(check):
        clock = VirtualClock(Paces(*paces), seconds_per_step=0.5)  # 2 steps: a client takes its pace

        def main(grid, context):
            check(Run(grid, clock, **options), clock)

        run_simulation(
            arithmetic.driver_app(main),
            arithmetic.client_app,
            len(paces),
            engine="inline",
            clock=clock,
            run_config=faults or {},
            block_size=1,
        )

    return decorate


def test_it_returns_what_came_by_the_deadline_and_drops_what_comes_later():
    @over(1, 2, 5, deadline_s=3.0)
    def check(run, clock):
        assert run(0, 1, 2) == [(0, 1), (1, 1)]
        assert clock.now_s == 3.0
        assert run(0, 1) == [(0, 2), (1, 2)]  # client 2 answers at 5 s, as client 1 does
        assert (clock.now_s, run.grid.dropped, run.grid.outstanding) == (5.0, 1, 0)


def test_late_replies_may_be_kept_and_come_once_in_the_order_of_arrival():
    @over(1, 4, 5, deadline_s=3.0, late="keep")
    def check(run, clock):
        assert run(0, 1, 2) == [(0, 1)]
        assert run(0) == [(1, 1), (0, 2)]  # at 4 s both, the one that was asked first first
        assert run(0) == [(2, 1), (0, 3)]
        assert run(0) == [(0, 4)]
        assert run.grid.dropped == 0


def test_a_round_ends_early_once_all_have_answered():
    @over(1, 2, deadline_s=100.0)
    def check(run, clock):
        assert run(0, 1) == [(0, 1), (1, 1)]
        assert clock.now_s == 2.0


def test_a_quorum_ends_a_round_early():
    @over(1, 2, 3, 4, deadline_s=100.0, quorum=0.6)
    def check(run, clock):
        assert run(0, 1, 2, 3) == [(0, 1), (1, 1), (2, 1)]  # 2.4 of 4
        assert clock.now_s == 3.0


@pytest.mark.parametrize(("count", "quorum", "wanted"), [(130, 1 / 1.3, 100), (10, 0.7, 7), (3, 0.01, 1)])
def test_a_quorum_is_rounded_up_but_not_for_a_rounding_error(count, quorum, wanted):
    grid = DeadlineGrid(None, 1.0, quorum=quorum)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in range(1, count + 1)]
    assert grid._opened(messages).quorum == wanted


def test_it_waits_past_the_deadline_for_the_fewest_but_not_past_the_callers_timeout():
    @over(5, 7, 9, deadline_s=1.0, at_least=2, late="keep")
    def check(run, clock):
        assert run(0, 1, 2) == [(0, 1), (1, 1)]
        assert clock.now_s == 7.0
        assert run(0, 1, timeout=4.0) == [(2, 1)]
        assert clock.now_s == 11.0
        assert run() == [(0, 2), (1, 2)]


def test_with_at_least_none_the_deadline_is_strict():
    @over(5, deadline_s=2.0, at_least=0)
    def check(run, clock):
        assert run(0) == []
        assert clock.now_s == 2.0


def test_who_still_works_is_not_sent_another_message():
    @over(1, 5, deadline_s=2.0)
    def check(run, clock):
        run(0, 1)
        assert run.grid.withheld == ()
        for _ in range(3):
            run(0, 1)
        assert run.grid.withheld == (run.nodes[1],)
        assert clock.now_s == 5.0
        run(0, 1)
        assert run.grid.withheld == ()
        assert sum(one.sent for one in run.meter.exchanges) == 2 + 3 + 2


def test_a_strategy_may_see_to_that_itself():
    @over(1, 5, deadline_s=2.0, late="keep", withhold=False, at_least=0)
    def check(run, clock):
        run(0, 1)
        assert run(1) == []
        assert run.grid.outstanding == 2
        assert run(0) == [(1, 1), (0, 3)]


def test_a_round_that_sends_nothing_lasts_until_somebody_answers():
    @over(4, 6, deadline_s=1.0, at_least=0)
    def check(run, clock):
        assert run(0, 1) == []
        assert run(0, 1) == []  # both withheld; the deadline does not matter
        assert (clock.now_s, run.grid.dropped) == (4.0, 1)
        assert run(0) == []
        assert clock.now_s == 5.0


def test_where_nothing_is_outstanding_a_round_that_sends_nothing_is_over_at_once():
    @over(1, deadline_s=1.0)
    def check(run, clock):
        assert run() == []
        assert clock.now_s == 0.0


def test_an_empty_list_is_no_round_and_evaluations_pass():
    @over(1, 4, deadline_s=2.0)
    def check(run, clock):
        run(0, 1)
        assert run.grid.send_and_receive([]) == []
        assert clock.now_s == 2.0
        content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
        messages = [Message(content, node, "evaluate") for node in run.nodes]
        assert len(list(run.grid.send_and_receive(messages))) == 2
        assert run.grid.outstanding == 1


def test_an_error_is_an_answer_but_no_usable_one():
    @over(1, 1, 3, faults={"fault-0": "raise"}, deadline_s=2.0, at_least=2)
    def check(run, clock):
        assert [p for p, _ in run(0, 1, 2)] == [0, 1, 2]
        assert clock.now_s == 3.0  # for a second usable one


@settings(max_examples=15, deadline=None)
@given(
    paces=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    deadline_s=st.integers(1, 6),
    late=st.sampled_from(["keep", "drop"]),
)
def test_no_reply_comes_twice_and_none_is_made_up(paces, deadline_s, late):
    @over(*paces, deadline_s=float(deadline_s), late=late)
    def check(run, clock):
        handed: list[tuple[int, int]] = []
        for _ in range(6):
            handed += run(*range(len(paces)))
        assert len(handed) == len(set(handed))
        arrived = sum(one.arrived for one in run.meter.exchanges)
        sent = sum(one.sent for one in run.meter.exchanges)
        assert len(handed) + run.grid.dropped == arrived == sent - run.grid.outstanding


def learned(strategy, deadline_s: float) -> tuple[list[float], float]:
    """The model's first bias after three rounds of three clients, the last of them slow; and the time."""
    clock = VirtualClock(Paces(1, 1, 4.5), seconds_per_step=0.5)
    found: list[float] = []

    def main(grid, context):
        result = strategy.start(DeadlineGrid(grid, deadline_s), arithmetic.start_arrays(), num_rounds=3)
        found.append(float(decode_record(result.arrays)["bias"][0]))

    run_simulation(
        arithmetic.driver_app(main), arithmetic.client_app, 3, engine="inline", clock=clock, block_size=1
    )
    return found, clock.now_s


@pytest.mark.parametrize("strategy", [FedAvg(), FedAvg(fold="workers"), StockFedAvg(fraction_evaluate=0.0)])
def test_any_strategy_runs_under_it(strategy):
    """Clients add 1/8 and 2/8 with weights 1 and 2, the slow one 3/8 with weight 3: never by 2 s."""
    found, now_s = learned(strategy, 2.0)
    assert found == [pytest.approx(3 * 5 / 24)]
    assert now_s == 2.0 + 1.0 + 1.0


class Clock:
    """Real seconds that pass when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now_s = 50.0
        monkeypatch.setattr("fedeff.grids.overlap.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr("fedeff.grids.overlap.time.sleep", self.sleep)

    def sleep(self, seconds):
        self.now_s += seconds


class Silent(Grid):
    """A Grid of real time that takes messages and never answers."""

    run = None

    def set_run(self, run): ...

    def create_message(self, *given): ...

    def get_node_ids(self):
        return [1]

    def push_messages(self, messages: Sequence[Message]):
        for number, message in enumerate(messages):
            set_message_id(message, f"m{number}")
            yield f"m{number}"

    def pull_messages(self, message_ids):
        return []

    def send_and_receive(self, messages, *, timeout=None):
        return []


def test_without_a_virtual_clock_seconds_are_real(monkeypatch):
    clock = Clock(monkeypatch)
    grid = DeadlineGrid(Silent(), 3.0, at_least=0, poll_s=0.5)
    assert grid.send_and_receive([Message(RecordDict(), dst_node_id=1, message_type="train")]) == []
    assert clock.now_s == 53.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deadline_s": 0.0}, "deadline_s is 0.0, expected a positive"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"deadline_s": 1.0, "at_least": -1}, "at_least is -1"),
        ({"deadline_s": 1.0, "quorum": 0.0}, r"quorum is 0.0, expected a share of the messages in \(0, 1\]"),
        ({"deadline_s": 1.0, "late": "kep"}, "unknown value of late 'kep'; did you mean 'keep'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DeadlineGrid(None, **settings)
