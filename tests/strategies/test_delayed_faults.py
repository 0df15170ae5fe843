"""Delayed averaging: clients that fail, lose their state, answer late or never, and resuming."""

import itertools

import numpy as np
import pytest
from apps.delaying import check_invariant, check_means, kinds_of
from apps.displacing import Faults, OneSlow, Played, agree, play
from flwr.app import Message

from fedeff.core.delays import Bimodal, Pareto, VirtualClock
from fedeff.core.errors import EngineError, ResumeError
from fedeff.strategies.delayed import DelayedAvg


def test_a_client_that_raises_is_counted_and_gets_the_whole_model():
    played = play(DelayedAvg(delay=1), 3, 5, faults={(1, 2): "raise"})
    assert [len(one) for one in played.need_full] == [0, 0, 0, 0, 1, 0]  # its period 3 built on period 2
    assert sum(played.failed) == 1
    assert kinds_of(played, 3)[1] == (2, "correction")
    assert kinds_of(played, 4)[1] == (0, "model")
    check_invariant(played, 1)


def test_a_client_that_lost_its_state_says_so_and_gets_the_whole_model():
    played = play(DelayedAvg(delay=1), 3, 6, faults={(2, 3): "forget"})
    assert played.book.need_full == [(2, 3), (2, 4)]
    assert kinds_of(played, 5)[2] == (0, "model")
    assert kinds_of(played, 6)[2] == (1, "correction")  # what its old epoch still answers ends no new one
    assert [len(one) for one in played.need_full] == [0, 0, 0, 0, 1, 1, 0]
    check_means(played, 1, {})


def test_a_malformed_displacement_is_refused_and_its_client_goes_on():
    played = play(DelayedAvg(delay=1), 3, 5, faults={(0, 2): "malformed"})
    assert "shape" in played.refused[3][0]
    assert kinds_of(played, 5)[0] == (4, "correction")
    check_means(played, 1, {(0, 2): "malformed"})
    check_invariant(played, 1)


def test_where_no_displacement_of_a_period_fits_each_client_takes_its_own_back():
    faults = {(p, 2): "malformed" for p in range(3)}
    played = play(DelayedAvg(delay=1), 3, 5, faults=faults)
    agree(played.models[4], played.models[3])
    assert kinds_of(played, 4) == [(3, "correction")] * 3
    check_invariant(played, 1)


def test_a_reply_that_comes_too_late_is_refused():
    clock = VirtualClock(Pareto(1.2, seed=5), seconds_per_step=1.0)
    played = play(DelayedAvg(delay=1), 6, 8, clock=clock, timeout=3.0)
    late = [reason for reasons in played.refused for reason in reasons]
    assert any(played.lost)
    assert set(late) == {"answers a message that is no longer awaited"}
    check_invariant(played, 1)
    check_means(played, 1, {})


def test_where_all_clients_are_lost_the_model_stays_and_the_run_goes_on():
    gone: Faults = {(p, r): "request" for p in range(3) for r in (2, 3)}
    clock = VirtualClock(latency_s=0.5)
    played = play(DelayedAvg(delay=1), 3, 7, faults=gone, clock=clock)
    assert [len(one) for one in played.lost] == [0, 0, 0, 3, 3, 0, 0, 0]
    agree(played.models[4], played.models[3])
    agree(played.models[5], played.models[3])
    assert not np.array_equal(played.models[7]["fc.weight"], played.models[5]["fc.weight"])
    assert kinds_of(played, 4) == [(0, "model")] * 3
    check_invariant(played, 1)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_slow_client_is_not_sent_more_than_it_can_answer_and_begins_anew_when_it_is_back(delay):
    clock = VirtualClock(OneSlow(until=12), seconds_per_step=0.5)  # 8 s a period, others 1 s
    strategy = DelayedAvg(delay=delay)
    played = play(strategy, 4, 90, clock=clock, timeout=3.0)
    assert max(played.backlog(0)) == 2 * (delay + 1)
    assert any(0 in contributors for contributors in contributors_of(played, delay)[-5:])
    cycles = [int(m.content["config"]["cycle"]) for m in asked(played, 0)]
    back = next(index for index, cycle in enumerate(cycles) if cycle > 2 * (delay + 1))
    assert len(asked(played, 0)[back].content["arrays"])
    check_invariant(played, delay)
    check_means(played, delay, {})


def asked(played: Played, partition: int) -> list[Message]:
    """The messages that a client was sent."""
    messages = [m for messages in played.grid.pushed for m in messages]
    return [m for m in messages if played.grid.partitions[m.metadata.dst_node_id] == partition]


def contributors_of(played: Played, delay: int) -> list[set[int]]:
    """By round, whose displacements came in time for their period's mean."""
    return [
        {
            int(reply.content["metrics"]["partition-id"])
            for reply in replies
            if reply.has_content() and server_round <= int(reply.metadata.group_id) + delay
        }
        for server_round, replies in enumerate(played.replies[1:], 1)
    ]


def test_where_every_client_rests_a_round_waits_for_one_to_come_back():
    """All are slower than the timeout at first: rounds in which nobody is asked must not fly by."""
    clock = VirtualClock(Bimodal(1.0, 0.0), seconds_per_step=2.0)  # 4 s a period
    played = play(DelayedAvg(delay=0), 3, 12, clock=clock, timeout=1.0)
    assert [played.backlog(partition)[-1] for partition in range(3)] == [2, 2, 2]
    assert all(after > before for before, after in itertools.pairwise(played.virtual_s))
    assert sum(len(replies) for replies in played.replies) >= 3


def test_a_message_that_could_not_be_sent_is_a_failure_at_once_and_the_next_one_brings_the_model():
    played = play(DelayedAvg(delay=2), 3, 6, faults={(1, 3): "unsent"}, clock=VirtualClock())
    assert played.book.fired == ["unsent"]
    assert played.failed == [0, 0, 0, 1, 0, 0, 0]
    assert kinds_of(played, 4)[1] == (0, "model")
    assert not any(played.lost)
    check_invariant(played, 2)
    check_means(played, 2, {})


def test_what_it_remembers_does_not_grow():
    strategy = DelayedAvg(delay=2, cohort=3, seed=2)
    play(strategy, 30, 40)
    assert len(strategy._means) <= 2
    assert len(strategy._epochs) <= 3 * 3
    assert len(strategy._under_way) <= 2 * 3
    assert len(strategy._arrived) <= 2


def test_replies_of_a_round_that_was_not_asked_for_are_an_error():
    strategy = DelayedAvg()
    with pytest.raises(EngineError, match="not called before"):
        strategy.aggregate_train(1, [])


# --- resuming -------------------------------------------------------------------------------------


def test_a_resumed_run_begins_with_whole_models_and_goes_on_rightly():
    first = DelayedAvg(delay=2)
    played = play(first, 4, 4)
    assert first.state() == {}
    assert not first.resumes_exactly
    resumed = DelayedAvg(delay=2)
    resumed.restore(first.state())
    again = play(resumed, 4, 5, model=played.models[-1], first_round=5)
    assert {message.content["config"]["cycle"] for message in again.grid.pushed[0]} == {5}
    assert {len(message.content["arrays"]) for message in again.grid.pushed[0]} == {2}
    for server_round in (6, 7):
        agree(again.models[server_round], played.models[-1])
    assert not np.array_equal(again.models[8]["fc.weight"], played.models[-1]["fc.weight"])


def test_a_strategy_that_is_restored_forgets_what_was_under_way():
    strategy = DelayedAvg(delay=2)
    play(strategy, 4, 4)
    strategy.restore({})
    assert not len(strategy._under_way)
    assert not strategy._epochs
    with pytest.raises(ResumeError):
        strategy.restore({"momentum": np.zeros(2)})
