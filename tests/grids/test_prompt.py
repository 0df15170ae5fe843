"""Replies noticed promptly, on a clock that nobody waits for: what comes back, when, and what is refused."""

import math
from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.flower import (
    NODE_UNAVAILABLE,
    REPLY_UNAVAILABLE,
    message_from,
    metadata_of,
    set_message_id,
    set_task_identity,
)
from fedeff.grids import MeteredGrid, Pace, PromptGrid, prompted

TIMES = st.lists(st.floats(0, 90), min_size=1, max_size=6)
EXAMPLES = settings(max_examples=50)


@pytest.fixture(autouse=True, scope="module")
def task():
    set_task_identity(1)


class Link(Grid):
    """A SuperLink on a clock of its own: node n answers `after_s[n]` seconds after it was asked.

    Faults are counted in `faults` when they strike.
    """

    def __init__(
        self, after_s, *, asking_s=0.0, fits=math.inf, unsendable=(), repeats=(), forged=(), errors=()
    ):
        self.after_s, self.asking_s, self.fits = dict(after_s), asking_s, fits
        self.unsendable, self.repeats, self.forged, self.errors = unsendable, repeats, forged, errors
        self.now_s, self.naps = 1000.0, []
        self.pushes, self.pulls, self.numbers, self.faults = [], [], 0, 0
        self.pending: dict[str, tuple[float, Message]] = {}

    def run(self):
        raise AssertionError("nobody asks")

    set_run = create_message = get_node_ids = run

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("Flower's own waits are what a PromptGrid replaces")

    def sleep(self, seconds):
        assert seconds > 0
        self.naps.append(seconds)
        self.now_s += seconds

    def push_messages(self, messages: Iterable[Message]) -> list:
        held = list(messages)
        self.pushes.append(len(held))
        for message in held:
            self.numbers += 1
            set_message_id(message, f"m{self.numbers}")
        if len(held) > self.fits:
            self.faults += 1
            return []
        return [self._take(message) for message in held]

    def _take(self, message):
        node, key = message.metadata.dst_node_id, message.metadata.message_id
        if node in self.unsendable:
            self.faults += 1
            return None
        self.pending[key] = (self.now_s + self.after_s[node], message)
        return key

    def pull_messages(self, message_ids):
        wanted = list(message_ids)
        self.pulls.append((self.now_s, wanted))
        self.now_s += self.asking_s
        due = [key for key in wanted if key in self.pending and self.pending[key][0] <= self.now_s]
        return [reply for key in due for reply in self._replies(self.pending.pop(key)[1])]

    def _replies(self, message):
        node = message.metadata.dst_node_id
        if node in self.errors:
            self.faults += 1
            return [Message(Error(code=NODE_UNAVAILABLE, reason="offline"), reply_to=message)]
        content = RecordDict({"metrics": MetricRecord({"partition-id": node})})
        reply = Message(content, reply_to=message)
        if node in self.forged:
            self.faults += 1
            return [message_from(metadata_of(reply) | {"_src_node_id": 666}, content)]
        if node in self.repeats:
            self.faults += 1
            return [reply, reply]
        return [reply]


def prompt(link: Link, pace: Pace | None = None) -> PromptGrid:
    return PromptGrid(link, pace, now_s=lambda: link.now_s, sleep=link.sleep)


def asked(nodes) -> list[Message]:
    return [Message(RecordDict({"config": ConfigRecord()}), node, "train") for node in nodes]


def nodes_of(replies) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


@EXAMPLES
@given(times=TIMES, asking_s=st.sampled_from([0.0, 0.01, 0.7]))
def test_each_reply_comes_once_and_soon_after_it_is_there(times, asking_s):
    """Within the pace's share of the round's time, or the time a request takes, of the last reply."""
    link = Link(enumerate(times, 1), asking_s=asking_s)
    grid, began_s = prompt(link), link.now_s
    replies = grid.send_and_receive(asked(link.after_s))
    assert sorted(nodes_of(replies)) == sorted(link.after_s)
    last_s = max(times)
    slack_s = max(grid.pace.shortest_s, grid.pace.share * last_s, asking_s) + 2 * asking_s
    assert link.now_s - began_s <= last_s + slack_s + 1e-6
    assert grid.refused == 0


@EXAMPLES
@given(times=TIMES)
def test_replies_are_in_the_order_in_which_they_were_pulled(times):
    link = Link(enumerate(times, 1))
    replies = prompt(link).send_and_receive(asked(link.after_s), timeout=100.0)
    came = [link.after_s[node] for node in nodes_of(replies)]
    bounds = [at - 1000.0 for at, _ in link.pulls]
    pull_of = [next(i for i, bound in enumerate(bounds) if time <= bound + 1e-9) for time in came]
    assert pull_of == sorted(pull_of)


@EXAMPLES
@given(times=TIMES, timeout=st.floats(0.001, 100))
def test_a_timeout_gives_exactly_what_came_by_then(times, timeout):
    link = Link(enumerate(times, 1))
    replies = prompt(link).send_and_receive(asked(link.after_s), timeout=timeout)
    assert set(nodes_of(replies)) == {
        node for node, time in link.after_s.items() if 1000.0 + time <= link.now_s
    }
    assert link.now_s - 1000.0 <= timeout + 1e-6
    if len(replies) < len(times):
        assert link.now_s - 1000.0 == pytest.approx(timeout)


def test_without_time_nothing_is_asked_as_with_flowers_grid():
    link = Link({1: 0.0})
    assert prompt(link).send_and_receive(asked([1]), timeout=0) == []
    assert link.pulls == []
    assert link.pushes == [1]


@given(
    passed_s=st.floats(0, 1e6),
    asking_s=st.floats(0, 10),
    shortest_s=st.floats(0.01, 1),
    share=st.floats(0, 2),
)
def test_a_pace_is_within_its_bounds(passed_s, asking_s, shortest_s, share):
    pace = Pace(shortest_s, 3.0, share)
    wait_s = pace.wait_s(passed_s, asking_s)
    assert shortest_s <= wait_s <= 3.0
    assert wait_s >= min(3.0, asking_s)


def test_it_asks_quickly_at_first_and_slower_in_a_long_round():
    link = Link({1: 600.0})
    prompt(link).send_and_receive(asked([1]))
    assert link.naps[:20] == [0.05] * 20
    assert link.naps[-2] == 3.0
    assert link.naps == sorted(link.naps[:-1]) + link.naps[-1:]
    assert len(link.pulls) < 320  # Flower's own asks 200 times


def test_a_link_that_answers_slowly_is_asked_for_at_most_half_of_the_time():
    link = Link({1: 30.0}, asking_s=1.5)
    prompt(link).send_and_receive(asked([1]))
    assert set(link.naps[:-1]) == {1.5}


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_what_does_not_fit_one_push_is_pushed_in_parts_in_order(fits):
    link = Link(dict.fromkeys(range(1, 8), 0.0), fits=fits)
    replies = prompt(link).send_and_receive(asked(range(1, 8)))
    assert nodes_of(replies) == list(range(1, 8))
    assert all(reply.has_content() for reply in replies)
    assert link.faults > 0


def test_a_message_that_fits_no_push_is_answered_with_an_error():
    link = Link({1: 0.0}, fits=0)
    (reply,) = prompt(link).send_and_receive(asked([1]))
    assert reply.error.code == NODE_UNAVAILABLE
    assert "too large" in reply.error.reason
    assert link.faults == 1
    assert link.pulls == []


def test_a_message_that_could_not_be_sent_does_not_end_the_run():
    link = Link(dict.fromkeys(range(1, 5), 0.2), unsendable={2, 3})
    replies = prompt(link).send_and_receive(asked(range(1, 5)))
    assert [reply.has_content() for reply in replies] == [False, False, True, True]
    assert link.faults == 2


def test_a_node_that_is_gone_is_an_error_and_the_others_are_heard():
    link = Link({1: 0.2, 2: 40.0}, errors={2})
    replies = prompt(link).send_and_receive(asked([1, 2]), timeout=600.0)
    assert [reply.has_content() for reply in replies] == [True, False]
    assert link.faults == 1
    assert link.now_s < 1043.0


def test_a_reply_that_comes_twice_is_refused_once(caplog):
    link = Link({1: 0.1, 2: 0.1}, repeats={1})
    grid = prompt(link)
    replies = grid.send_and_receive(asked([1, 2]))
    assert nodes_of(replies) == [1, 2]
    assert grid.refused == link.faults == 1
    assert "refused a reply of node 1" in caplog.text


def test_a_reply_of_another_node_than_the_one_asked_is_an_error():
    link = Link({1: 0.1, 2: 0.1}, forged={2})
    grid = prompt(link)
    replies = grid.send_and_receive(asked([1, 2]))
    assert nodes_of(replies) == [1, 2]
    assert replies[0].has_content()
    assert replies[1].error.code == REPLY_UNAVAILABLE
    assert "node 666" in replies[1].error.reason
    assert grid.refused == link.faults == 1


def test_pulls_of_others_are_checked_alike():
    link = Link({1: 0.0, 2: 0.0}, repeats={1, 2})
    grid = prompt(link)
    ids = grid.push_messages(asked([1, 2]))
    assert nodes_of(grid.pull_messages(ids[:1])) == [1]
    assert nodes_of(grid.pull_messages(ids)) == [2]
    assert grid.refused == link.faults == 2


def test_a_meter_over_it_counts_what_was_asked_and_what_was_lost():
    link = Link({1: 0.1, 2: math.inf, 3: 0.1}, unsendable={3})
    metered = MeteredGrid(prompt(link))
    metered.send_and_receive(asked([1, 2, 3]), timeout=2.0)
    (exchange,) = metered.exchanges
    assert (exchange.sent, exchange.arrived, exchange.errors, exchange.missing) == (3, 1, 1, 1)


def test_nothing_sent_asks_nothing():
    link = Link({})
    assert prompt(link).send_and_receive([]) == []
    assert link.pushes == link.pulls == []


def test_grids_of_engines_stay_what_they_are():
    link = Link({})
    assert prompted(link) is link


@pytest.mark.parametrize("wrong", [{"shortest_s": 0.0}, {"longest_s": 0.01}, {"share": -1.0}])
def test_a_pace_without_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        Pace(**wrong)
