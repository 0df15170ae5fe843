"""FedAvg over a Grid: cohorts, means, faults, evaluation, and where replies are summed."""

import logging

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as StockFedAvg
from flwr.serverapp.strategy import Strategy

from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record
from fedeff.strategies import FedAvg, Refusal, WeightedSum

MODEL = encode_record(
    {
        "conv.weight": np.ones((3, 2), np.float32),
        "fc.weight": np.ones((20, 5), np.float32),
        "fc.bias": np.zeros(5, np.float32),
    }
)


def trained(make_reply, partition: int, message: Message) -> Message:
    """A client that adds its own noise to what it was sent, weighted by its partition."""
    arrays = decode_record(message.content["arrays"])
    rng = np.random.default_rng([partition, message.content["config"]["server-round"]])
    new = {
        key: (values + rng.normal(size=values.shape)).astype(values.dtype) for key, values in arrays.items()
    }
    due = message.content["config"].get("layers-due", list(new))
    return make_reply(
        partition,
        {key: new[key] for key in due},
        partition + 1,
        node=message.metadata.dst_node_id,
        metrics={"loss": float(partition)},
    )


@pytest.fixture
def client(make_reply):
    return lambda partition, message: trained(make_reply, partition, message)


def one_round(strategy, grid, server_round=1, model=MODEL):
    messages = strategy.configure_train(server_round, model, ConfigRecord(), grid)
    return strategy.aggregate_train(server_round, grid.send_and_receive(messages))


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


# --- cohorts and messages -------------------------------------------------------------------------


def test_messages_carry_model_round_and_settings_and_leave_the_caller_s_config(client, make_grid):
    config = ConfigRecord({"lr": 0.1, "local-epochs": 1})
    strategy = FedAvg(train_config={"local-epochs": 3, "prox-mu": 0.5})
    messages = list(strategy.configure_train(4, MODEL, config, make_grid(client, 5)))
    sent = {"lr": 0.1, "local-epochs": 3, "prox-mu": 0.5, "server-round": 4}
    assert [dict(one.content["config"]) for one in messages] == [sent] * 5
    assert all(same(one.content["arrays"], MODEL) for one in messages)
    assert [one.metadata.message_type for one in messages] == ["train"] * 5
    assert dict(config) == {"lr": 0.1, "local-epochs": 1}


def drawn(strategy, grid, server_round):
    messages = strategy.configure_train(server_round, MODEL, ConfigRecord(), grid)
    return [grid.nodes[one.metadata.dst_node_id] for one in messages]


def test_a_cohort_is_drawn_by_partition_seed_and_round(client, make_grid):
    grid, renamed = make_grid(client, 50), make_grid(client, 50)
    renamed.nodes = {node * 13: partition for node, partition in grid.nodes.items()}
    strategy = FedAvg(cohort=10, seed=3)
    rounds = [drawn(strategy, grid, server_round) for server_round in range(1, 101)]
    assert all(cohort == sorted(set(cohort)) and len(cohort) == 10 for cohort in rounds)
    assert rounds == [drawn(FedAvg(cohort=10, seed=3), renamed, r) for r in range(1, 101)]
    assert rounds != [drawn(FedAvg(cohort=10, seed=4), grid, r) for r in range(1, 101)]
    taken = np.bincount([partition for cohort in rounds for partition in cohort], minlength=50)
    assert taken.min() >= 6
    assert taken.max() <= 38  # 20 expected, standard deviation 4


def test_without_a_cohort_all_clients_train(client, make_grid):
    assert drawn(FedAvg(), make_grid(client, 7), 1) == list(range(7))


def test_a_cohort_above_the_clients_is_refused(client, make_grid):
    with pytest.raises(ConfigError, match="11 clients are needed but 10 are connected"):
        drawn(FedAvg(cohort=11, wait_for_nodes_s=0), make_grid(client, 10), 1)


def test_no_clients_at_all_are_refused(client, make_grid):
    with pytest.raises(ConfigError, match="1 clients are needed but 0"):
        drawn(FedAvg(wait_for_nodes_s=0), make_grid(client, 0), 1)


def test_a_round_waits_for_clients_that_connect_late(client, make_grid, monkeypatch):
    grid, late = make_grid(client, 10), iter([0, 4, 9, 10])
    monkeypatch.setattr(grid, "get_node_ids", lambda: list(grid.nodes)[: next(late)])
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    assert len(drawn(FedAvg(cohort=2, min_available_nodes=10, wait_for_nodes_s=60), grid, 1)) == 2
    assert len(naps) == 3


# --- means ----------------------------------------------------------------------------------------


def test_a_round_by_hand(make_reply, make_grid):
    def client(partition, message):
        values = {
            key: array + np.float32(partition)
            for key, array in decode_record(message.content["arrays"]).items()
        }
        return make_reply(partition, values, [1, 3][partition], metrics={"loss": 4.0 * partition})

    arrays, metrics = one_round(FedAvg(), make_grid(client, 2))
    assert list(arrays) == list(MODEL)
    assert decode_record(arrays)["fc.bias"].tolist() == [0.75] * 5
    assert decode_record(arrays)["conv.weight"].tolist() == [[1.75] * 2] * 3
    assert dict(metrics) == {"loss": 3.0}


@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
def test_however_replies_come_the_mean_has_the_same_bits(client, make_grid, replies):
    expected, metrics = one_round(FedAvg(), make_grid(client, 23))
    seen, seen_metrics = one_round(FedAvg(), make_grid(client, 23, replies))
    assert same(seen, expected)
    assert dict(seen_metrics) == dict(metrics)


@pytest.mark.parametrize("block", [1, 4, 23])
def test_summed_by_workers_or_by_the_server_is_the_same_mean(client, make_grid, block):
    expected, metrics = one_round(FedAvg(), make_grid(client, 23))
    grid = make_grid(client, 23, "streamed", block)
    messages = (strategy := FedAvg(fold="workers")).configure_train(1, MODEL, ConfigRecord(), grid)
    assert isinstance(messages.fold, WeightedSum)
    seen, seen_metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(seen)[key], values, rtol=1e-6)
    assert dict(seen_metrics) == pytest.approx(dict(metrics), rel=1e-12)


def test_a_fold_on_a_grid_that_cannot_fold_gives_the_server_s_bits(client, make_grid):
    expected, _ = one_round(FedAvg(), make_grid(client, 23))
    assert same(one_round(FedAvg(fold="workers"), make_grid(client, 23, "shuffled"))[0], expected)


def test_it_agrees_with_flower_s_fedavg_over_rounds(client, make_grid):
    options = {"initial_arrays": MODEL, "num_rounds": 3}
    ours = FedAvg(evaluate_clients=0).start(make_grid(client, 9), **options)
    stock = StockFedAvg(fraction_evaluate=0.0).start(make_grid(client, 9), **options)
    for key, values in decode_record(stock.arrays).items():
        np.testing.assert_allclose(decode_record(ours.arrays)[key], values, rtol=1e-5, atol=1e-6)
    for server_round, metrics in stock.train_metrics_clientapp.items():
        assert ours.train_metrics_clientapp[server_round]["loss"] == pytest.approx(metrics["loss"])


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture
def faulty(client, make_reply, make_error):
    """Clients 1, 4 and 6 misbehave; what each does."""

    def answer(partition, message):
        node = message.metadata.dst_node_id
        if partition == 1:
            return make_error(node, "no memory")
        if partition == 4:
            return make_reply(4, {"other": np.ones(3)}, node=node)
        if partition == 6:
            nan = {key: values * np.nan for key, values in decode_record(MODEL).items()}
            return make_reply(6, nan, node=node)
        return None if partition == 7 else client(partition, message)

    return answer


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
def test_replies_that_do_not_fit_are_left_out_and_listed(client, faulty, make_grid, fold, replies, caplog):
    strategy = FedAvg(fold=fold)
    with caplog.at_level(logging.INFO, "fedeff"):
        arrays, _ = one_round(strategy, make_grid(faulty, 9, replies))
    alone = make_grid(client, 9)
    alone.client = lambda partition, message: (
        None if partition in (1, 4, 6, 7) else client(partition, message)
    )
    for key, values in decode_record(one_round(FedAvg(), alone)[0]).items():
        np.testing.assert_allclose(decode_record(arrays)[key], values, rtol=1e-6)
    assert [(one.partition_id, one.reason[:22]) for one in strategy.refused] == [
        (4, "arrays do not match wh"),
        (6, "array 'conv.weight' ho"),
    ]
    assert strategy.failed == (Refusal(107, None, "no memory"),)
    assert "5 replies averaged, 2 refused, 1 failed" in caplog.text
    assert "partition 4 left out: arrays do not match" in caplog.text


def test_refusals_are_those_of_the_last_round(client, faulty, make_grid):
    strategy, grid = FedAvg(), make_grid(faulty, 9)
    one_round(strategy, grid)
    grid.client = client
    one_round(strategy, grid, 2)
    assert strategy.refused == strategy.failed == ()


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["list", "streamed"])
def test_where_nothing_valid_is_left_the_model_stays(make_error, make_grid, fold, replies):
    grid = make_grid(lambda partition, message: make_error(message.metadata.dst_node_id, "gone"), 3, replies)
    strategy = FedAvg(fold=fold)
    assert one_round(strategy, grid) == (None, None)
    assert len(strategy.failed) == 3
    result = FedAvg(fold=fold).start(grid, MODEL, num_rounds=2)
    assert result.train_metrics_clientapp == {}


def test_many_refusals_are_logged_in_few_lines(make_error, make_grid, caplog):
    grid = make_grid(lambda partition, message: make_error(partition, "gone"), 50)
    with caplog.at_level(logging.INFO, "fedeff"):
        one_round(FedAvg(), grid)
    assert len(caplog.records) == 7
    assert "45 more left out" in caplog.text


def test_replies_to_a_round_that_was_not_asked_for_are_an_error(client, make_grid):
    strategy = FedAvg()
    with pytest.raises(EngineError, match="never called"):
        strategy.aggregate_train(1, [])
    one_round(strategy, make_grid(client, 2), 3)
    with pytest.raises(EngineError, match="last called for round 3"):
        strategy.aggregate_train(4, [])


# --- evaluation -----------------------------------------------------------------------------------


def evaluated(partition: int, message: Message) -> Message:
    numbers = {"num-examples": partition + 1, "partition-id": partition, "eval-accuracy": 0.1 * partition}
    if partition == 2:
        del numbers["num-examples"]
    return Message(RecordDict({"metrics": MetricRecord(numbers)}), reply_to=message)


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
def test_federated_evaluation_is_a_weighted_mean(make_grid, fold, replies):
    grid, strategy = make_grid(evaluated, 4, replies), FedAvg(evaluate_clients=None, fold=fold)
    messages = strategy.configure_evaluate(5, MODEL, ConfigRecord({"x": 1}), grid)
    sent = list(messages)
    assert [one.metadata.message_type for one in sent] == ["evaluate"] * 4
    assert dict(sent[0].content["config"]) == {"x": 1, "server-round": 5}
    metrics = strategy.aggregate_evaluate(5, grid.send_and_receive(messages))
    assert dict(metrics) == pytest.approx({"eval-accuracy": (2 * 0.1 + 4 * 0.3) / 7})
    assert [one.partition_id for one in strategy.refused_evaluations] == [2]


def test_evaluating_clients_are_drawn_apart_from_training_ones(make_grid):
    grid, strategy = make_grid(evaluated, 40), FedAvg(cohort=10, evaluate_clients=10)
    messages = strategy.configure_evaluate(1, MODEL, ConfigRecord(), grid)
    chosen = [grid.nodes[one.metadata.dst_node_id] for one in messages]
    assert len(chosen) == 10
    assert chosen != drawn(strategy, grid, 1)


def test_no_federated_evaluation_by_default(client, make_grid):
    strategy, grid = FedAvg(), make_grid(client, 3)
    assert list(strategy.configure_evaluate(1, MODEL, ConfigRecord(), grid)) == []
    assert strategy.aggregate_evaluate(1, []) is None


# --- the value itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cohort": 0}, "cohort is 0, expected 1 or more"),
        ({"evaluate_clients": -1}, "evaluate_clients is -1"),
        ({"min_available_nodes": 0}, "min_available_nodes is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"wait_for_nodes_s": float("nan")}, "wait_for_nodes_s is nan"),
        ({"fold": "worker"}, "did you mean 'workers'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FedAvg(**settings)


def test_a_checkpoint_needs_only_the_model(client, make_grid):
    grid, strategy = make_grid(client, 9), FedAvg(cohort=4)
    model = MODEL
    for server_round in (1, 2, 3):
        if server_round == 2:
            saved, state = model, strategy.state()
        model = one_round(strategy, grid, server_round, model)[0]
    resumed, again = saved, FedAvg(cohort=4)
    again.restore(state)
    for server_round in (2, 3):
        resumed = one_round(again, grid, server_round, resumed)[0]
    assert same(resumed, model)


def test_another_strategy_s_state_is_refused():
    with pytest.raises(ResumeError, match=r"holds strategy state \['momentum'\]"):
        FedAvg().restore({"momentum": np.zeros(2)})


def test_the_summary_says_what_it_will_do(caplog):
    with caplog.at_level(logging.INFO, "fedeff"):
        FedAvg(cohort=12, fold="workers", seed=8).summary()
    assert "FedAvg: cohort 12, evaluated by 0 clients, replies summed on the workers, seed 8" in caplog.text


def test_it_is_a_flower_strategy():
    assert isinstance(FedAvg(), Strategy)
