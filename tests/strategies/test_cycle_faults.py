"""Cycles whose clients are lost, forget or send nonsense: who stays, who leaves, what is averaged."""

import numpy as np
import pytest
from apps.cycles import LAYERS, START, STRATEGIES, Halves, rounds_of, some_faults
from apps.cycling import SHAPES, Clients, close, model, play, same
from flwr.app import ConfigRecord
from hypothesis import HealthCheck, given, settings

from fedeff.core.errors import EngineError
from fedeff.core.layers import decode_record
from fedeff.core.parts import take
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.partial import PartialAvg


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(faults=some_faults)
def test_after_any_cycle_all_clients_and_the_server_hold_the_same_layers(make_grid, name, faults):
    strategy, clients = STRATEGIES[name](cohort=4, seed=1), Clients(faults)
    grid = make_grid(clients, 6)
    now = START
    for server_round in range(1, 13):
        begins = strategy.cycle_ended
        messages = strategy.configure_train(server_round, now, ConfigRecord(), grid)
        assert [dict(one.content["config"])["cycle-round"] for one in messages].count(0) == (
            len(messages) if begins else 0
        )
        replies = grid.send_and_receive(messages)
        if begins:
            for partition in (grid.nodes[one.metadata.dst_node_id] for one in messages):
                if (partition, server_round) in clients.began:
                    close(clients.began[partition, server_round], decode_record(now), rtol=0)
        now = strategy.aggregate_train(server_round, replies)[0] or now
        assert list(now) == list(START)
        assert all(np.isfinite(values).all() for values in decode_record(now).values())


@pytest.mark.parametrize("name", [name for name in STRATEGIES if "overlapped" not in name])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(faults=some_faults)
def test_whoever_trains_stands_on_the_server_s_newest_means(make_grid, name, faults):
    """In every round, not only at the end: what was averaged last is what its members train from."""
    strategy, clients = STRATEGIES[name](cohort=4, seed=1), Clients(faults)
    now, fresh = START, tuple(SHAPES)
    for played in play(strategy, make_grid(clients, 6), START, 12):
        means = take(decode_record(now), fresh)
        for partition in played.partitions:
            if (partition, played.server_round) in clients.began:
                held = take(clients.began[partition, played.server_round], fresh)
                assert all(np.array_equal(held[part], means[part]) for part in fresh)
        due = played.config().get("layers-due", list(SHAPES))
        now, fresh = played.model, due if played.synchronised else ()


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize(
    ("fault", "refused", "failed", "need_full", "back"),
    [
        ("request", (), 0, 0, False),
        ("reply", (), 0, 0, False),
        ("raise", (), 1, 0, False),
        ("forget", (), 0, 1, True),
        ("stale", (), 0, 1, True),
        ("version", (), 0, 1, True),
        ("malformed", (4,), 0, 0, True),
        ("nan", (4,), 0, 0, True),
    ],
)
def test_one_fault_in_mid_cycle(make_grid, fold, replies, fault, refused, failed, need_full, back):
    strategy = PartialAvg(groups=4, fold=fold)
    clients = Clients({(4, 2): fault})  # in the second block
    seen = rounds_of(strategy, make_grid(clients, 6, replies), 5, model("f4"))
    assert clients.fired == {fault: 1}
    assert [one.refused for one in seen] == [(), refused, (), (), ()]
    assert [one.failed for one in seen] == [0, failed, 0, 0, 0]
    assert [one.need_full for one in seen] == [0, need_full, 0, 0, 0]
    others = [0, 1, 2, 3, 5]
    assert [one.partitions for one in seen[2:4]] == [[*range(6)] if back else others] * 2
    assert seen[4].partitions == [*range(6)]
    # The mean of round 2 is that of the other five.
    due = seen[1].config()["layers-due"]
    five = {partition: clients.ended[partition, 2] for partition in others}
    total = sum(1 + partition % 4 for partition in others)
    for key in due:
        mean = sum((1 + p % 4) * five[p][key].astype(float) for p in others) / total
        np.testing.assert_allclose(seen[1].arrays[key], mean, rtol=1e-6)
    if back:
        close(clients.began[4, 3], seen[1].arrays, rtol=0)
    assert seen[1].metrics["loss"] == pytest.approx(sum((1 + p % 4) * p for p in others) / total)


@pytest.mark.parametrize("fault", ["request", "reply", "raise"])
def test_where_all_clients_of_a_round_are_lost_the_next_begins_a_cycle(make_grid, fault):
    clients = Clients({(partition, 2): fault for partition in range(5)})
    strategy = FedLAMA(phi=3)
    seen = rounds_of(strategy, make_grid(clients, 5), 6)
    assert clients.fired == {fault: 5}
    assert [one.config()["cycle"] for one in seen] == [1, 1, 3, 3, 3, 6]
    assert [one.config()["cycle-round"] for one in seen] == [0, 1, 0, 1, 2, 0]
    assert same(seen[1].model, seen[0].model)
    assert seen[1].metrics is None
    assert seen[1].synchronised == ()
    close(clients.began[0, 3], seen[1].arrays, rtol=0)


def test_where_all_have_lost_their_state_the_cycle_goes_on_with_the_full_model(make_grid):
    clients = Clients({(partition, 2): "forget" for partition in range(5)})
    seen = rounds_of(Halves(), make_grid(clients, 5), 3)
    assert clients.fired == {"forget": 5}
    assert [one.need_full for one in seen] == [0, 5, 0]
    assert [one.config()["cycle-round"] for one in seen] == [0, 1, 2]
    assert same(seen[1].model, seen[0].model)
    close(clients.began[3, 3], seen[1].arrays, rtol=0)
    assert seen[2].synchronised == LAYERS


def test_clients_that_are_no_longer_connected_leave_the_cycle(make_grid):
    grid = make_grid(Clients(), 5)
    rounds = play(Halves(), grid, START, 4)
    assert next(rounds).partitions == [0, 1, 2, 3, 4]
    gone = {node: grid.nodes.pop(node) for node in list(grid.nodes)[1:3]}
    assert next(rounds).partitions == [0, 3, 4]
    grid.nodes |= gone  # too late for this cycle
    assert next(rounds).partitions == [0, 3, 4]
    assert next(rounds).partitions == [0, 1, 2, 3, 4]


def test_a_cycle_whose_members_are_all_gone_gives_way_to_a_new_one(make_grid):
    grid = make_grid(Clients(), 6)
    rounds = play(Halves(), grid, START, 2)
    next(rounds)
    grid.nodes = {node + 1: partition for node, partition in grid.nodes.items()}
    second = next(rounds)
    assert (second.config()["cycle"], second.config()["cycle-round"]) == (2, 0)


def test_a_round_asked_for_twice_is_answered_again_without_training(make_grid):
    clients, strategy = Clients(), Halves()
    grid = make_grid(clients, 3)
    first = strategy.configure_train(1, START, ConfigRecord(), grid)
    grid.send_and_receive(first)  # the server never sees these replies
    (played,) = play(strategy, grid, START, 1)
    assert clients.repeated == 3
    (expected,) = rounds_of(Halves(), make_grid(Clients(), 3), 1)
    assert same(played.model, expected.model)


def test_a_round_cannot_be_aggregated_twice(make_grid):
    strategy, grid = Halves(), make_grid(Clients(), 3)
    messages = strategy.configure_train(1, START, ConfigRecord(), grid)
    replies = grid.send_and_receive(messages)
    strategy.aggregate_train(1, replies)
    with pytest.raises(EngineError, match="round 1 was aggregated already"):
        strategy.aggregate_train(1, replies)


def test_a_second_run_of_one_strategy_begins_anew(make_grid):
    strategy = Halves(cohort=3)
    first = rounds_of(strategy, make_grid(Clients(), 6), 2)
    again = rounds_of(strategy, make_grid(Clients(), 6), 2)
    assert [one.config()["cycle-round"] for one in again] == [0, 1]
    assert all(same(one.model, two.model) for one, two in zip(first, again, strict=True))


# --- a runtime that keeps nothing of its clients --------------------------------------------------


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


@pytest.mark.parametrize("fold", ["server", "workers"])
def test_where_all_always_forget_it_is_said_once(make_grid, caplog, fold):
    clients = Clients({(partition, at): "forget" for partition in range(4) for at in range(1, 10)})
    strategy = FedLAMA(phi=3, fold=fold)
    rounds = play(strategy, make_grid(clients, 4, "streamed"), START, 9)
    seen = [one.need_full for one in rounds]
    assert clients.fired == {"forget": 36}
    assert seen == [0, 0, 0, 0, 4, 0, 0, 4, 0]  # the first cycle sends every layer in every round
    (said,) = warnings(caplog)
    assert said.startswith("round 5: all 4 clients that answered ask for the whole model")
    assert "Context.state" in said


def test_every_start_says_it_anew(make_grid, caplog):
    clients = Clients({(partition, 2): "forget" for partition in range(3)})
    strategy, grid = Halves(), make_grid(clients, 3)
    for _ in range(2):
        strategy.start(grid, START, num_rounds=3)
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("others", ["", "malformed"])
def test_where_one_of_them_remembers_it_is_no_runtime_without_state(make_grid, caplog, others):
    faults = {(partition, 2): "forget" for partition in range(3)}
    clients = Clients({**faults, (3, 2): others})
    seen = rounds_of(PartialAvg(groups=3), make_grid(clients, 4), 3)
    assert [one.need_full for one in seen] == [0, 3, 0]
    assert not [one for one in warnings(caplog) if "Context.state" in one]
