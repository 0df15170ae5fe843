"""FedBuff: FedAvg where nothing is stale, its weights by hand, who is asked, faults, and resuming."""

import itertools
import logging
import math

import numpy as np
import pytest
from apps.displacing import OneSlow, Played, agree, examples_of, play, start
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.delays import Bimodal, Pareto, VirtualClock
from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import encode_record, payload_bytes
from fedeff.strategies import FedAvg
from fedeff.strategies.fedbuff import FedBuff, buffered_sum, staleness_weight
from fedeff.strategies.weighted_sum import WeightedSum, layout_of

FOLD = WeightedSum(layout_of(encode_record({"w": np.zeros(2)})))


# --- nothing stale --------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [9, 4])
def test_with_a_buffer_of_the_whole_cohort_it_is_fedavg(cohort):
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.1)
    buffered = play(FedBuff(concurrency=cohort, buffer=cohort, seed=3), 9, 5, clock=clock)
    plain = play(FedAvg(cohort=cohort, seed=3), 9, 5)
    for one, other in zip(buffered.models[2:], plain.models[2:], strict=True):
        agree(one, other)
    for one, other in zip(buffered.metrics[1:], plain.metrics[1:], strict=True):
        assert dict(one) == pytest.approx({**other, "staleness": 0.0}, rel=1e-12)


# --- weights --------------------------------------------------------------------------------------


def test_a_step_by_hand(make_reply):
    """Examples 1 and 3, the second three steps stale: (1 * 4 + 3 * 8 / 2) / 4 = 4."""
    updates = [
        (0, make_reply(0, {"w": np.array([4.0, 0.0])}, 1, metrics={"loss": 2.0})),
        (3, make_reply(1, {"w": np.array([8.0, 0.0])}, 3, metrics={"loss": 6.0})),
    ]
    total = buffered_sum(updates, FOLD)
    assert (total.sums["w"] / total.weight).tolist() == [4.0, 0.0]
    assert total.metrics["loss"] == (20.0, 4.0)
    assert total.replies == 2


def test_with_equal_examples_the_step_is_the_paper_s():
    """Algorithm 1 divides the sum of the damped updates by their number."""
    assert [staleness_weight(staleness) for staleness in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]


@given(
    updates=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 50), st.floats(-10, 10)), min_size=1, max_size=8
    )
)
def test_the_sum_agrees_with_the_formula_one_by_one(make_reply, updates):
    replies = [
        (staleness, make_reply(p, {"w": np.array([value, 1.0])}, n))
        for p, (staleness, n, value) in enumerate(updates)
    ]
    total = buffered_sum(replies, FOLD)
    examples = sum(n for _, n, _ in updates)
    expected = math.fsum(n * value / math.sqrt(1 + staleness) for staleness, n, value in updates) / examples
    assert total.weight == examples
    assert total.sums["w"][0] / total.weight == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_updates_that_do_not_fit_add_nothing(make_reply):
    updates = [(0, make_reply(0, {"w": np.ones(2)}, 1)), (2, make_reply(1, {"w": np.ones(3)}, 1))]
    total = buffered_sum(updates, FOLD)
    assert (total.weight, total.replies, len(total.refused)) == (1.0, 1, 1)


# --- over a Grid ----------------------------------------------------------------------------------


def sent_in(played: Played) -> dict[int, list[int]]:
    """Partitions that each round sent the model to."""
    return {
        server_round: [played.grid.partitions[m.metadata.dst_node_id] for m in messages]
        for server_round, messages in enumerate(played.grid.pushed, 1)
    }


def check_steps(played: Played, buffer: int, rate: float = 1.0) -> None:
    """Each round's model is the last one and the damped step of the first updates that had come in."""
    waiting: list[tuple[int, int]] = []  # partition, and the round that sent it
    for server_round in range(1, len(played.replies)):
        for reply in played.replies[server_round]:
            if reply.has_content():
                partition = int(reply.content["metrics"]["partition-id"])
                waiting.append((partition, int(reply.metadata.group_id)))
        taken, waiting = waiting[:buffer], waiting[buffer:]
        weight = sum(examples_of(partition) for partition, _ in taken)
        expected = {key: values.copy() for key, values in played.models[server_round].items()}
        for partition, sent in taken:
            share = examples_of(partition) / weight / math.sqrt(1 + server_round - sent)
            for key, values in played.book.displaced[partition, sent].items():
                expected[key] += rate * share * values
        agree(played.models[server_round + 1], expected)


@settings(max_examples=20, deadline=None)
@given(
    concurrency=st.integers(1, 6),
    buffer=st.integers(1, 6),
    shape=st.sampled_from([1.2, 3.0]),
    seed=st.integers(0, 999),
)
def test_every_step_is_the_paper_s_under_random_delays(concurrency, buffer, shape, seed):
    buffer = min(buffer, concurrency)
    clock = VirtualClock(Pareto(shape, seed=seed), seconds_per_step=0.5, latency_s=0.1)
    strategy = FedBuff(concurrency=concurrency, buffer=buffer, server_learning_rate=0.5, seed=seed)
    played = play(strategy, 8, 6, clock=clock)
    check_steps(played, buffer, 0.5)
    assert [len(replies) for replies in played.replies[1:]] == [buffer] * 6


def test_the_check_of_steps_sees_a_wrong_one():
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    played = play(FedBuff(concurrency=6, buffer=2), 8, 6, clock=clock)
    assert any(dict(metrics)["staleness"] > 0 for metrics in played.metrics[1:])
    check_steps(played, 2)
    with pytest.raises(AssertionError):
        check_steps(played, 2, rate=1.001)


def test_so_many_clients_are_always_under_way_and_each_at_most_once():
    clock = VirtualClock(Pareto(1.2, seed=2), seconds_per_step=0.5)
    played = play(FedBuff(concurrency=6, buffer=2), 10, 12, clock=clock)
    assert [len(nodes) for nodes in sent_in(played).values()] == [6] + [2] * 11
    under_way: set[int] = set()
    for server_round, partitions in sent_in(played).items():
        assert under_way.isdisjoint(partitions)
        under_way |= set(partitions)
        assert len(under_way) == 6
        under_way -= {int(r.content["metrics"]["partition-id"]) for r in played.replies[server_round]}
    drawn = {partition for partitions in sent_in(played).values() for partition in partitions}
    assert len(drawn) > 6


def test_draws_repeat_with_the_seed():
    def draws(seed: int) -> dict[int, list[int]]:
        clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
        return sent_in(play(FedBuff(concurrency=4, buffer=2, seed=seed), 10, 5, clock=clock))

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_updates_that_came_in_too_many_wait_for_the_next_step():
    """Without a clock the engine hands over a whole block at once."""
    strategy = FedBuff(concurrency=6, buffer=2)
    played = play(strategy, 6, 5, block_size=6)
    assert [len(replies) for replies in played.replies[1:4]] == [6, 0, 0]
    check_steps(played, 2)


def test_clients_keep_no_state_and_everyone_gets_the_whole_model():
    played = play(FedBuff(concurrency=4, buffer=2, train_config={"local-steps": 3}), 6, 3)
    content = played.grid.pushed[2][0].content
    assert dict(content["config"]) == {"local-steps": 3, "server-round": 3, "reply-with": "displacement"}
    assert payload_bytes(content) == payload_bytes(encode_record(start()))
    for messages in played.grid.pushed:
        assert len({id(message.content) for message in messages}) == 1


def test_the_meter_counts_every_byte_that_travels():
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    played = play(FedBuff(concurrency=5, buffer=2), 8, 6, clock=clock, faults={(0, 1): "raise"})
    down = sum(payload_bytes(m.content) for messages in played.grid.pushed for m in messages)
    up = sum(payload_bytes(reply.content) for reply in played.grid.pulled if reply.has_content())
    played.grid.close()
    assert sum(one.downlink_bytes for one in played.grid.exchanges) == down
    assert sum(one.uplink_bytes for one in played.grid.exchanges) == up
    sent = sum(one.sent for one in played.grid.exchanges)
    assert sent == sum(one.arrived + one.errors + one.missing for one in played.grid.exchanges)


# --- faults ---------------------------------------------------------------------------------------


def test_a_client_that_fails_is_counted_and_replaced():
    clock = VirtualClock(seconds_per_step=0.5)
    played = play(FedBuff(concurrency=4, buffer=2), 4, 4, clock=clock, faults={(1, 1): "raise"})
    assert sum(played.failed) == 1
    assert played.book.fired == ["raise"]
    assert 1 in sent_in(played)[2]


def test_an_error_fills_no_place_in_the_buffer():
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    played = play(FedBuff(concurrency=4, buffer=2), 4, 1, clock=clock, faults={(1, 1): "raise"})
    assert [reply.has_error() for reply in played.replies[1]] == [True, False, False]
    assert played.metrics[1] is not None


def test_a_malformed_update_is_refused():
    clock = VirtualClock(seconds_per_step=0.5)
    played = play(FedBuff(concurrency=3, buffer=3), 3, 2, clock=clock, faults={(1, 1): "malformed"})
    assert "shape" in played.refused[1][0]
    share = {p: examples_of(p) / (examples_of(0) + examples_of(2)) for p in (0, 2)}
    moves = [played.book.displaced[p, 1]["fc.bias"] * share[p] for p in (0, 2)]
    np.testing.assert_allclose(played.models[2]["fc.bias"], sum(moves), rtol=1e-12)


def test_where_all_clients_are_lost_they_are_given_up_and_replaced():
    gone = {(p, 1): "request" for p in range(4)}
    clock = VirtualClock(seconds_per_step=0.5)
    played = play(FedBuff(concurrency=4, buffer=2), 4, 3, clock=clock, faults=gone, timeout=5.0)
    assert [len(one) for one in played.lost] == [0, 4, 0, 0]
    assert played.virtual_s[1] == 5.0
    agree(played.models[2], start())
    assert sorted(sent_in(played)[2]) == [0, 1, 2, 3]
    assert not np.array_equal(played.models[3]["fc.weight"], start()["fc.weight"])


def test_updates_that_are_there_when_a_wait_ends_stay_for_the_next_round():
    gone = {(p, 1): "reply" for p in (0, 1, 2)}
    clock = VirtualClock(seconds_per_step=0.5)
    played = play(FedBuff(concurrency=4, buffer=2), 4, 2, clock=clock, faults=gone, timeout=5.0)
    agree(played.models[2], start())
    assert dict(played.metrics[2])["staleness"] == 0.0
    share = examples_of(3) / (examples_of(3) + examples_of(0))
    old, new = (played.book.displaced[at]["fc.bias"] for at in ((3, 1), (0, 2)))
    np.testing.assert_allclose(played.models[3]["fc.bias"], share * old + (1 - share) * new, rtol=1e-12)


def test_a_reply_of_a_client_that_was_given_up_is_refused():
    clock = VirtualClock(Bimodal(20, 0.5, seed=1), seconds_per_step=0.5)
    played = play(FedBuff(concurrency=6, buffer=6), 6, 12, clock=clock, timeout=5.0)
    assert any(played.lost)
    reasons = {reason for reasons in played.refused for reason in reasons}
    assert reasons == {"answers a message that is no longer awaited"}


def test_clients_that_could_only_bring_what_is_too_stale_are_given_up():
    clock = VirtualClock(Bimodal(50, 0.3, seed=2), seconds_per_step=0.5)
    free = play(FedBuff(concurrency=8, buffer=1), 8, 60, clock=clock)
    stale = max(dict(metrics)["staleness"] for metrics in free.metrics[1:])
    assert stale > 3
    clock = VirtualClock(Bimodal(50, 0.3, seed=2), seconds_per_step=0.5)
    strategy = FedBuff(concurrency=8, buffer=1, max_staleness=3)
    bounded = play(strategy, 16, 60, clock=clock)
    assert max(dict(metrics)["staleness"] for metrics in bounded.metrics[1:] if metrics) <= 3
    assert any(bounded.lost)
    assert len(strategy._under_way) <= 8


def test_a_message_that_could_not_be_sent_holds_no_place():
    """Its client has failed, and is idle at once."""
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    strategy = FedBuff(concurrency=4, buffer=2)
    played = play(strategy, 4, 4, clock=clock, faults={(1, 1): "unsent", (2, 1): "unsent"})
    assert played.book.fired == ["unsent", "unsent"]
    assert played.failed == [0, 2, 0, 0, 0]
    assert [len(nodes) for nodes in sent_in(played).values()] == [4, 4, 2, 2]
    check_steps(played, 2)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_where_nothing_can_be_sent_a_round_is_over_at_once(timeout):
    unsent = {(partition, 1): "unsent" for partition in range(3)}
    clock = VirtualClock(seconds_per_step=0.5)
    played = play(FedBuff(concurrency=3, buffer=3), 3, 2, clock=clock, faults=unsent, timeout=timeout)
    assert played.failed == [0, 3, 0]
    assert played.virtual_s == [0.0, 0.0, 1.0]
    agree(played.models[2], start())


def test_a_slow_client_is_not_sent_more_than_it_can_answer_and_takes_part_when_it_is_back():
    clock = VirtualClock(OneSlow(until=12), seconds_per_step=0.5)
    strategy = FedBuff(concurrency=4, buffer=4)
    played = play(strategy, 4, 60, clock=clock, timeout=3.0)
    assert max(played.backlog(0)) == 2
    assert any(0 in partitions for partitions in list(sent_in(played).values())[-3:])
    assert strategy.resting == ()


def test_where_every_client_rests_a_round_waits_for_one_to_come_back():
    clock = VirtualClock(seconds_per_step=2.0)  # 4 s for each
    played = play(FedBuff(concurrency=3, buffer=3), 3, 12, clock=clock, timeout=1.0)
    assert max(max(played.backlog(partition)) for partition in range(3)) == 2
    assert all(after > before for before, after in itertools.pairwise(played.virtual_s))


def test_replies_of_a_round_that_was_not_asked_for_are_an_error():
    with pytest.raises(EngineError, match="not called before"):
        FedBuff().aggregate_train(1, [])


def test_outside_of_a_round_nothing_is_waited_for():
    strategy = FedBuff(concurrency=3, buffer=2)
    play(strategy, 3, 2)
    assert strategy._enough([], 3)


# --- resuming, and the value itself ---------------------------------------------------------------


def test_a_resumed_run_draws_its_clients_anew():
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    first = FedBuff(concurrency=4, buffer=2)
    played = play(first, 6, 3, clock=clock)
    assert first.state() == {}
    assert not first.resumes_exactly
    first.restore({})
    assert not len(first._under_way)
    resumed = FedBuff(concurrency=4, buffer=2)
    resumed.restore(first.state())
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    again = play(resumed, 6, 2, model=played.models[-1], first_round=4, clock=clock)
    assert len(again.grid.pushed[0]) == 4
    assert dict(again.metrics[1])["staleness"] == 0.0
    with pytest.raises(ResumeError):
        resumed.restore({"momentum": np.zeros(2)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer": 0}, "buffer is 0, expected 1 to 100"),
        ({"concurrency": 3, "buffer": 4}, "buffer is 4, expected 1 to 3"),
        ({"server_learning_rate": 0.0}, "server_learning_rate is 0.0"),
        ({"server_learning_rate": math.inf}, "server_learning_rate is inf"),
        ({"max_staleness": -1}, "max_staleness is -1"),
        ({"cohort": 5}, "cohort is 5; FedBuff calls it concurrency"),
        ({"fold": "workers"}, "fold is 'workers', but FedBuff sums on the server"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FedBuff(**settings)


def test_the_summary_says_what_it_will_do(caplog):
    with caplog.at_level(logging.INFO, "fedeff"):
        FedBuff(concurrency=20, buffer=5).summary()
    assert "20 clients always under way, a step of 1 every 5 updates" in caplog.text
