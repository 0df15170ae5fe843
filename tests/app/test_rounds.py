"""The round loop over a strategy and a Grid of a few lines each."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.rounds import Schedule, Score, run_rounds
from fedeff.core.errors import EngineError
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.round_log import RoundLog
from fedeff.strategies import FedAvg


@pytest.fixture(autouse=True)
def _identity():
    set_task_identity(1)


def model_of(value):
    return encode_record({"w": np.array([value], np.float64)})


def value_of(model):
    return float(decode_record(model)["w"][0])


class Doubling(Strategy):
    """Asks two nodes, which answer with the model plus one; the next model is twice their first."""

    def __init__(self):
        self.calls = []

    def summary(self):
        pass

    def configure_train(self, server_round, arrays, config, grid):
        self.calls.append(("train", server_round))
        assert dict(config) == {}
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content=content, dst_node_id=node, message_type="train") for node in (1, 2)]

    def aggregate_train(self, server_round, replies):
        good = [reply for reply in replies if not reply.has_error()]
        if not good:
            return None, None
        return model_of(2 * value_of(good[0].content["arrays"])), MetricRecord({})

    def configure_evaluate(self, server_round, arrays, config, grid):
        self.calls.append(("evaluate", server_round))
        return [Message(content=RecordDict({"arrays": arrays}), dst_node_id=1, message_type="evaluate")]

    def aggregate_evaluate(self, server_round, replies):
        list(replies)


class Answering:
    """A Grid whose nodes add one; those in `failing` answer with an error."""

    def __init__(self, failing=(), lazily=False):
        self.failing, self.lazily = failing, lazily
        self.timeouts = []

    def send_and_receive(self, messages, *, timeout=None):
        self.timeouts.append(timeout)
        replies = (self.reply(message) for message in messages)
        return replies if self.lazily else list(replies)

    def reply(self, message):
        if message.metadata.dst_node_id in self.failing:
            return Message(Error(code=0, reason="no\nspace left"), reply_to=message)
        grown = model_of(value_of(message.content["arrays"]) + 1)
        return Message(RecordDict({"arrays": grown, "config": ConfigRecord()}), reply_to=message)


def run(schedule, *, done=0, model=0.0, book=None, grid=None, strategy=None, accuracy=lambda model: 0.5):
    kept = []
    final = run_rounds(
        strategy or Doubling(),
        grid or Answering(),
        model_of(model),
        schedule,
        book=book or RoundLog(None),
        evaluate=lambda record: Score(accuracy(value_of(record)), 1.0),
        keep=lambda server_round, record: kept.append((server_round, value_of(record))),
        done=done,
    )
    return value_of(final), kept


def test_each_round_computes_from_the_last():
    # x -> 2 (x + 1): 2, 6, 14
    assert run(Schedule(3)) == (14.0, [(1, 2.0), (2, 6.0), (3, 14.0)])


@pytest.mark.parametrize("lazily", [False, True])
def test_a_node_that_fails_costs_its_reply_only(lazily):
    assert run(Schedule(2), grid=Answering(failing=(1,), lazily=lazily))[0] == 6.0


@pytest.mark.parametrize("lazily", [False, True])
def test_a_round_in_which_all_fail_ends_the_run(lazily):
    strategy = Doubling()
    with pytest.raises(EngineError, match="round 1: all 2 clients failed; first: no space left"):
        run(Schedule(3), grid=Answering(failing=(1, 2), lazily=lazily), strategy=strategy)
    assert strategy.calls == [("train", 1)]


class Flaky(Answering):
    """All nodes fail in some rounds."""

    def __init__(self, lost):
        super().__init__()
        self.lost, self.round = lost, 0

    def send_and_receive(self, messages, *, timeout=None):
        self.round += 1
        self.failing = (1, 2) if self.round in self.lost else ()
        return super().send_and_receive(messages)


def test_lost_rounds_after_a_good_one_leave_the_model_and_the_third_on_end_ends_the_run():
    kept = run(Schedule(6), grid=Flaky({2, 3, 5}), strategy=Doubling())[1]
    assert kept == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 6.0), (5, 6.0), (6, 14.0)]
    with pytest.raises(EngineError, match="round 5: all 2 clients failed"):
        run(Schedule(6), grid=Flaky({3, 4, 5}), strategy=Doubling())


class Asking(FedAvg):
    """Notes which round it takes for the last one, and asks nobody."""

    def configure_train(self, server_round, arrays, config, grid):
        self.seen = self.last_round
        return []

    def aggregate_train(self, server_round, replies):
        return None, None


def test_a_strategy_is_told_which_round_is_the_last():
    strategy = Asking()
    run(Schedule(3), strategy=strategy, done=1)
    assert strategy.seen == 3


@given(rounds=st.integers(1, 8), cut=st.integers(0, 8))
def test_a_cut_run_ends_where_a_whole_one_does(rounds, cut):
    cut = min(cut, rounds)
    _, first = run(Schedule(cut)) if cut else (None, [(0, 0.0)])
    final, second = run(Schedule(rounds), done=first[-1][0], model=first[-1][1])
    assert [*first[bool(not cut) :], *second] == run(Schedule(rounds))[1]
    assert final == run(Schedule(rounds))[0]


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_the_model_is_evaluated_every_so_many_rounds_and_at_the_end(every, evaluated):
    log, strategy, records = RoundLog(None), Doubling(), []
    log._on_round = records.append
    run(Schedule(5, evaluate_every=every, evaluate_clients=1), book=log, strategy=strategy)
    assert [record.server_round for record in records] == [1, 2, 3, 4, 5]
    assert [record.server_round for record in records if record.accuracy is not None] == evaluated
    assert [server_round for kind, server_round in strategy.calls if kind == "evaluate"] == evaluated


def test_clients_do_not_evaluate_unless_asked():
    strategy = Doubling()
    run(Schedule(2), strategy=strategy)
    assert strategy.calls == [("train", 1), ("train", 2)]


def test_the_target_stops_a_run_and_a_resumed_one_at_once():
    target = Schedule(10, target_accuracy=0.6)
    log = RoundLog(None)
    model, kept = run(target, book=log, accuracy=lambda model: model / 10)
    assert [server_round for server_round, _ in kept] == [1, 2]
    assert run(target, book=log, done=2, model=model) == (6.0, [])


def test_a_record_is_written_before_its_model_is_kept():
    seen = []
    log = RoundLog(None, on_round=lambda record: seen.append(("recorded", record.server_round)))
    run_rounds(
        Doubling(),
        Answering(),
        model_of(0.0),
        Schedule(2),
        book=log,
        evaluate=lambda record: None,
        keep=lambda server_round, record: seen.append(("kept", server_round)),
    )
    assert seen == [("recorded", 1), ("kept", 1), ("recorded", 2), ("kept", 2)]


def test_the_learning_rate_falls_as_the_schedule_says():
    def scales(kind):
        schedule = Schedule(4, learning_rate=kind)
        return [dict(schedule.train_config(server_round)) for server_round in (1, 2, 3, 4)]

    assert scales("constant") == [{}] * 4
    assert scales("linear") == [{"learning-rate-scale": scale} for scale in (1.0, 0.75, 0.5, 0.25)]
    expected = [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]
    assert [one["learning-rate-scale"] for one in scales("cosine")] == pytest.approx(expected)


@pytest.mark.parametrize("timeout", [None, 2.5])
def test_no_exchange_of_a_round_waits_longer_than_the_schedule_says(timeout):
    grid = Answering()
    run(Schedule(2, evaluate_clients=1, timeout_s=timeout), grid=grid)
    assert grid.timeouts == [timeout] * 4


@pytest.mark.parametrize(("target", "last"), [(0.0, 3), (0.6, 2)])
def test_what_is_under_way_is_settled_once_before_the_last_record(target, last):
    seen = []
    run_rounds(
        Doubling(),
        Answering(),
        model_of(0.0),
        Schedule(3, target_accuracy=target),
        book=RoundLog(None, on_round=lambda record: seen.append(record.server_round)),
        evaluate=lambda record: Score(value_of(record) / 10, 1.0),
        keep=lambda server_round, record: None,
        settle=lambda: seen.append("settled"),
    )
    assert seen == [*range(1, last), "settled", last]
