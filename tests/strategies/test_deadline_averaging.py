"""Deadline averaging over a Grid: FedAvg with nobody missing, estimates by hand, late replies, faults."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
from apps.displacing import Arrays, Played, agree, examples_of, play, start
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.delays import Pareto, VirtualClock
from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import payload_bytes
from fedeff.strategies import DeadlineAveraging, FedAvg
from fedeff.strategies.missing import ESTIMATORS, GramDecoder


@dataclass(frozen=True)
class Paces:
    """A delay model: the first clients take as many times as long as the others, each its own factor."""

    paces: tuple[float, ...]
    seed: int = 0

    def slowdown(self, client: int, round: int) -> float:
        return self.paces[client] if client < len(self.paces) else 1.0


def clock_of(*paces: float) -> VirtualClock:
    """A client takes its pace in seconds: two steps."""
    return VirtualClock(Paces(paces), seconds_per_step=0.5)


def sent_in(played: Played) -> list[list[int]]:
    """Partitions that each round sent the model to."""
    return [[played.grid.partitions[m.metadata.dst_node_id] for m in held] for held in played.grid.pushed]


def answered_in(played: Played, server_round: int) -> list[tuple[int, int]]:
    """Replies of a round as (partition, round that asked)."""
    return [
        (int(reply.content["metrics"]["partition-id"]), int(reply.metadata.group_id))
        for reply in played.replies[server_round]
        if reply.has_content()
    ]


def weighted(updates: dict[int, Arrays]) -> Arrays:
    """The mean of updates, by partition, weighted by their examples."""
    weight = sum(examples_of(partition) for partition in updates)
    return {
        key: sum(examples_of(p) * update[key] for p, update in updates.items()) / weight for key in start()
    }


def plus(one: Arrays, other: Arrays, factor: float = 1.0) -> Arrays:
    return {key: values + factor * other[key] for key, values in one.items()}


# --- nobody missing -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ESTIMATORS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_with_nobody_missing_it_is_fedavg_bit_for_bit(missing, dtype):
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.1)
    strategy = DeadlineAveraging(missing=missing, deadline_s=1e6, cohort=4, seed=3)
    ours = play(strategy, 9, 5, clock=clock, model=start(dtype))
    plain = play(FedAvg(cohort=4, seed=3), 9, 5, model=start(dtype))
    for one, other in zip(ours.models[1:], plain.models[1:], strict=True):
        assert {key: values.tobytes() for key, values in one.items()} == {
            key: values.tobytes() for key, values in other.items()
        }
    assert ours.metrics[1:] == plain.metrics[1:]
    assert strategy.estimated == ()


# --- estimates by hand ----------------------------------------------------------------------------


def estimated_by(missing: str, now: Arrays, stale: Arrays, then: Arrays) -> Arrays:
    if missing == "stale":
        return stale
    return plus(plus(stale, now), then, -1.0)


@pytest.mark.parametrize("missing", ["drop", "stale", "drift"])
def test_rounds_by_hand(missing):
    """Client 0 takes 3 s, the others 1 s: it answers round 1 in round 3, round 4 in round 6."""
    seen = []
    strategy = DeadlineAveraging(missing=missing, deadline_s=1.0)
    played = play(strategy, 3, 6, clock=clock_of(3.0), after_round=lambda r: seen.append(strategy.estimated))
    assert sent_in(played) == [[0, 1, 2], [1, 2], [1, 2], [0, 1, 2], [1, 2], [1, 2]]
    assert [(0, 1) in answered_in(played, r) for r in range(1, 7)] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert [(0, 4) in answered_in(played, r) for r in range(1, 7)] == [False] * 5 + [True]
    assert seen == ([()] * 6 if missing == "drop" else [(), (), (0,), (0,), (0,), (0,)])
    moved = played.book.displaced
    means = {r: weighted({p: moved[p, r] for p in (1, 2)}) for r in range(1, 7)}
    for server_round in range(1, 7):
        update = means[server_round]
        if missing != "drop" and server_round >= 3:
            asked = 4 if server_round == 6 else 1
            estimate = estimated_by(missing, means[server_round], moved[0, asked], means[asked])
            update = weighted({0: estimate, 1: moved[1, server_round], 2: moved[2, server_round]})
        agree(played.models[server_round + 1], plus(played.models[server_round], update), 1e-6)


def test_a_client_that_is_missing_by_chance_counts_with_what_it_sent_last():
    """Client 0 is in time in round 1 and fails in round 2: the mean of round 1 is taken without it."""
    strategy = DeadlineAveraging(missing="drift", deadline_s=5.0)
    played = play(strategy, 3, 2, clock=clock_of(), faults={(0, 2): "raise"})
    moved = played.book.displaced
    means = {r: weighted({p: moved[p, r] for p in (1, 2)}) for r in (1, 2)}
    estimate = estimated_by("drift", means[2], moved[0, 1], means[1])
    update = weighted({0: estimate, 1: moved[1, 2], 2: moved[2, 2]})
    agree(played.models[3], plus(played.models[2], update), 1e-6)
    assert strategy.estimated == (0,)


def test_fedvarp_by_hand():
    """The mean of the last updates of all, and how those that came differ from theirs."""
    strategy = DeadlineAveraging(missing="fedvarp", deadline_s=5.0)
    played = play(strategy, 3, 2, clock=clock_of(), faults={(0, 2): "raise"})
    moved = played.book.displaced
    last = weighted({p: moved[p, 1] for p in (0, 1, 2)})
    change = weighted({p: plus(moved[p, 2], moved[p, 1], -1.0) for p in (1, 2)})
    agree(played.models[3], plus(played.models[2], plus(last, change)), 1e-6)


@pytest.mark.parametrize("missing", ["ridge", "gram"])
def test_estimators_that_learn_do_and_repeat_with_the_seed(missing):
    def models(seed: int) -> list[Arrays]:
        strategy = DeadlineAveraging(missing=missing, deadline_s=1.0, seed=seed)
        return play(strategy, 8, 12, clock=clock_of(3.0, 4.0), first_round=1).models[1:]

    drift = play(DeadlineAveraging(missing="drift", deadline_s=1.0), 8, 12, clock=clock_of(3.0, 4.0)).models
    once, again = models(0), models(0)
    assert all(
        np.array_equal(one["fc.weight"], two["fc.weight"]) for one, two in zip(once, again, strict=True)
    )
    assert all(np.isfinite(one["fc.weight"]).all() for one in once)
    assert not np.array_equal(once[-1]["fc.weight"], drift[-1]["fc.weight"])


# --- who is asked, and what counts ----------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    missing=st.sampled_from(["stale", "drift", "gram"]),
    shape=st.sampled_from([1.1, 3.0]),
    cohort=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_no_reply_counts_twice_and_who_counts_is_on_record(missing, shape, cohort, seed):
    """A round's weight is that of its cohort's members who came or are estimated, each of them once."""
    seen = []
    strategy = DeadlineAveraging(missing=missing, deadline_s=1.5, cohort=cohort, seed=seed)
    clock = VirtualClock(Pareto(shape, seed=seed), seconds_per_step=0.5)
    played = play(strategy, 6, 8, clock=clock, after_round=lambda r: seen.append(strategy.estimated))
    answers = [pair for r in range(1, 9) for pair in answered_in(played, r)]
    assert len(answers) == len(set(answers))
    heard: set[int] = set()
    for server_round, estimated in enumerate(seen, 1):
        came = answered_in(played, server_round)
        in_time = {p for p, asked in came if asked == server_round}
        heard |= {p for p, _ in came}
        assert in_time.isdisjoint(estimated)
        assert set(estimated) <= heard
        assert len(estimated) + len(in_time) <= cohort


@settings(max_examples=15, deadline=None)
@given(shape=st.sampled_from([1.1, 2.0]), seed=st.integers(0, 99))
def test_nobody_has_more_than_one_message(shape, seed):
    clock = VirtualClock(Pareto(shape, seed=seed), seconds_per_step=0.5)
    played = play(DeadlineAveraging(deadline_s=1.2, cohort=4, seed=seed), 6, 10, clock=clock)
    for partition in range(6):
        assert max(played.backlog(partition)) <= 1


def test_the_cohort_is_drawn_among_busy_clients_too():
    played = play(DeadlineAveraging(deadline_s=1.0, cohort=3, seed=1), 6, 30, clock=clock_of(50.0, 50.0))
    sizes = [len(partitions) for partitions in sent_in(played)]
    assert max(sizes) == 3
    assert np.mean(sizes[5:]) < 2.6  # two of six never answer: of three, one is missing on average


def test_a_quorum_leaves_out_the_slowest():
    strategy = DeadlineAveraging(missing="drop", deadline_s=100.0, quorum=0.5)
    played = play(strategy, 4, 2, clock=clock_of(4.0, 3.0))
    assert [p for p, _ in answered_in(played, 1)] == [2, 3]
    assert played.virtual_s[1:] == [1.0, 2.0]


def test_a_round_without_anybody_in_time_leaves_the_model_and_remembers_what_came():
    """Both clients are busy in round 2: it lasts until one answers, who is asked again in round 3."""
    strategy = DeadlineAveraging(missing="stale", deadline_s=1.0, fewest_replies=0)
    seen = []
    played = play(
        strategy, 2, 3, clock=clock_of(3.0, 5.0), after_round=lambda r: seen.append(strategy.estimated)
    )
    assert sent_in(played)[:2] == [[0, 1], [0]]
    agree(played.models[2], start())
    agree(played.models[3], start())
    assert strategy._history.latest
    assert seen == [(), (), ()]


def test_a_message_older_than_the_history_is_given_up_and_its_client_asked_again():
    strategy = DeadlineAveraging(missing="stale", deadline_s=1.0, history_rounds=3)
    played = play(strategy, 3, 7, clock=clock_of(5.5))
    assert [server_round for server_round, asked in enumerate(sent_in(played), 1) if 0 in asked] == [1, 4, 7]
    assert [len(lost) for lost in played.lost[1:]] == [0, 0, 0, 1, 0, 0, 1]
    assert "answers a message that is no longer awaited" in played.refused[6][0]


def test_an_update_is_forgotten_when_it_is_too_old():
    strategy = DeadlineAveraging(missing="stale", deadline_s=1.0, history_rounds=3)
    seen = []
    gone = {(0, r): "raise" for r in range(2, 9)}
    play(strategy, 2, 6, clock=clock_of(), faults=gone, after_round=lambda r: seen.append(strategy.estimated))
    assert seen == [(), (0,), (0,), (0,), (), ()]
    assert len(strategy._history.latest) == 1
    assert max(strategy._history.models) - min(strategy._history.models) <= 3


def test_late_replies_that_do_not_fit_are_refused():
    faults = {(0, 1): "malformed"}
    strategy = DeadlineAveraging(missing="stale", deadline_s=1.0)
    played = play(strategy, 3, 4, clock=clock_of(2.0), faults=faults)
    assert "shape" in played.refused[2][0]
    assert played.book.fired == ["malformed"]
    assert strategy.estimated == (0,)  # by what it sent in round 3


def test_the_meter_counts_every_byte_that_travels():
    clock = VirtualClock(Pareto(1.2), seconds_per_step=0.5)
    played = play(DeadlineAveraging(deadline_s=1.5, cohort=5), 8, 6, clock=clock)
    down = sum(payload_bytes(m.content) for messages in played.grid.pushed for m in messages)
    up = sum(payload_bytes(reply.content) for reply in played.grid.pulled if reply.has_content())
    played.grid.close()
    assert sum(one.downlink_bytes for one in played.grid.exchanges) == down
    assert sum(one.uplink_bytes for one in played.grid.exchanges) == up


# --- the value itself -----------------------------------------------------------------------------


def test_integers_are_estimated_and_rounded():
    model = {**start(), "fc.steps": np.array([1000, -3], np.int64)}
    strategy = DeadlineAveraging(missing="drift", deadline_s=1.0)
    played = play(strategy, 3, 4, clock=clock_of(2.0), model=model)
    assert played.models[-1]["fc.steps"].dtype == np.int64
    assert strategy.estimated == (0,)


def test_another_model_begins_with_nobody_known():
    strategy = DeadlineAveraging(missing="gram", deadline_s=1.0)
    play(strategy, 3, 4, clock=clock_of(2.0))
    assert strategy._history.latest
    strategy.model_replaced()
    assert not strategy._history.latest
    assert not len(strategy._under_way)
    small = {"fc.weight": np.zeros((2, 2)), "fc.bias": np.zeros(2)}
    play(strategy, 3, 4, clock=clock_of(2.0), model=small)


def test_a_resumed_run_begins_with_nobody_known():
    strategy = DeadlineAveraging(missing="stale", deadline_s=1.0)
    played = play(strategy, 3, 3, clock=clock_of(2.0))
    assert strategy.state() == {}
    assert not strategy.resumes_exactly
    resumed = DeadlineAveraging(missing="stale", deadline_s=1.0)
    resumed.restore(strategy.state())
    play(resumed, 3, 1, clock=clock_of(2.0), model=played.models[-1], first_round=4)
    assert resumed.estimated == ()
    with pytest.raises(ResumeError):
        resumed.restore({"latest": np.zeros(2)})


def test_an_estimator_of_ones_own_is_taken():
    mine = GramDecoder(hidden=4)
    strategy = DeadlineAveraging(missing=mine, deadline_s=1.0)
    play(strategy, 3, 4, clock=clock_of(2.0))
    assert strategy._estimator is mine


def test_replies_of_a_round_that_was_not_asked_for_are_an_error():
    with pytest.raises(EngineError, match="not called before"):
        DeadlineAveraging().aggregate_train(1, [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"missing": "drfit"}, "unknown way with missing clients 'drfit'; did you mean 'drift'"),
        ({"deadline_s": 0.0}, "deadline_s is 0.0, expected a positive"),
        ({"quorum": 1.5}, "quorum is 1.5"),
        ({"fewest_replies": -1}, "fewest_replies is -1"),
        ({"history_rounds": 0}, "history_rounds is 0"),
        ({"fold": "workers"}, "fold is 'workers', but DeadlineAveraging sums on the server"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DeadlineAveraging(**settings)


def test_the_summary_says_what_it_will_do(caplog):
    with caplog.at_level(logging.INFO, "fedeff"):
        DeadlineAveraging(missing="gram", deadline_s=2.5).summary()
    assert "rounds end after 2.5 s; missing clients: gram" in caplog.text
