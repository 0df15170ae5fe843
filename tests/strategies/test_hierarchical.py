"""Hierarchical local SGD: rounds by hand, FedAvg as a special case, faults, resuming."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import ServerApp

from fedeff.app.checkpoints import Standing, read_standing, write_standing
from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record
from fedeff.grids.cohort import Cohort, Folded
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg, WeightedSum
from fedeff.strategies.hierarchical import (
    GroupedSum,
    HierarchicalSGD,
    Topology,
)
from fedeff.strategies.weighted_sum import layout_of

TWO = Topology.read("0-1:0,2-3:1")


def model_of(dtype) -> object:
    arrays = {"fc.weight": np.ones((2, 3)), "fc.bias": np.zeros(2), "fc.count": np.array(5)}
    return encode_record({key: v.astype(dtype) if v.ndim else v for key, v in arrays.items()})


MODEL = model_of(np.float32)


@pytest.fixture
def client(make_reply):
    """Adds its own noise to what it was sent; one more example than its number."""

    def answer(partition, message):
        rng = np.random.default_rng([partition, message.content["config"]["server-round"]])
        arrays = {
            key: np.asarray(values + rng.normal(size=values.shape), values.dtype)
            for key, values in decode_record(message.content["arrays"]).items()
        }
        node = message.metadata.dst_node_id
        return make_reply(partition, arrays, partition + 1, node=node, metrics={"loss": float(partition)})

    return answer


def one_round(strategy, grid, server_round, model=MODEL):
    messages = strategy.configure_train(server_round, model, ConfigRecord({"lr": 0.5}), grid)
    return strategy.aggregate_train(server_round, grid.send_and_receive(messages))


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


def sent_to(grid, partition, exchange=-1):
    by_partition = {grid.nodes[one.metadata.dst_node_id]: one for one in grid.sent[exchange]}
    return by_partition[partition].content


# --- settings ------------------------------------------------------------------------------------


def test_a_client_in_no_group_is_refused_when_it_takes_part(client, make_grid):
    strategy = HierarchicalSGD(topology=TWO)
    with pytest.raises(ConfigError, match="client 4 takes part, but is in no group"):
        one_round(strategy, make_grid(client, 5), 1)


@pytest.mark.parametrize(
    ("settings", "message"), [({"global_every": 0}, "global_every is 0"), ({"cohort": 0}, "cohort is 0")]
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        HierarchicalSGD(topology=TWO, **settings)


# --- rounds ---------------------------------------------------------------------------------------


def adding(make_reply, weights):
    """Clients that add their number and one, whatever the round."""

    def answer(partition, message):
        arrays = {
            key: np.asarray(values + partition + 1, values.dtype)
            for key, values in decode_record(message.content["arrays"]).items()
        }
        node = message.metadata.dst_node_id
        return make_reply(partition, arrays, weights[partition], node=node)

    return answer


def test_two_rounds_by_hand(make_reply, make_grid):
    # Group 0 adds (1*1 + 3*2) / 4 = 1.75 a round, group 1 adds (2*3 + 2*4) / 4 = 3.5.
    grid = make_grid(adding(make_reply, [1, 3, 2, 2]), 4)
    strategy = HierarchicalSGD(topology=TWO, global_every=2)
    first, _ = one_round(strategy, grid, 1)
    assert decode_record(first)["fc.bias"].tolist() == [2.625] * 2  # what they would average to now
    assert strategy.synchronised == ()
    second, _ = one_round(strategy, grid, 2, first)
    groups = [decode_record(sent_to(grid, partition)["arrays"])["fc.bias"][0] for partition in range(4)]
    assert groups == [1.75, 1.75, 3.5, 3.5]
    assert decode_record(second)["fc.bias"].tolist() == [5.25] * 2
    assert strategy.synchronised == ("fc",)
    one_round(strategy, grid, 3, second)
    groups = [decode_record(sent_to(grid, partition)["arrays"])["fc.bias"][0] for partition in range(4)]
    assert groups == [5.25] * 4


def test_groups_weigh_by_the_examples_they_averaged_since_the_last_global_round(make_reply, make_grid):
    adds, silent = adding(make_reply, [1, 1, 1, 1]), []

    def answer(partition, message):
        if partition in (2, 3) and message.content["config"]["server-round"] == 2:
            silent.append(partition)
            return None
        return adds(partition, message)

    grid, strategy = make_grid(answer, 4), HierarchicalSGD(topology=TWO, global_every=2)
    one_round(strategy, grid, 1)
    merged, _ = one_round(strategy, grid, 2)
    # Group 0 is at 3 with 4 examples; group 1 stayed at 3.5 with 2 and still counts.
    np.testing.assert_allclose(decode_record(merged)["fc.bias"], (4 * 3.0 + 2 * 3.5) / 6, rtol=1e-6)
    assert silent == [2, 3]


def test_messages_of_a_group_share_one_content(client, make_grid):
    grid, strategy = make_grid(client, 4), HierarchicalSGD(topology=TWO, train_config={"local-steps": 1})
    one_round(strategy, grid, 1)
    one_round(strategy, grid, 2)
    assert sent_to(grid, 0) is sent_to(grid, 1)
    assert sent_to(grid, 2) is sent_to(grid, 3)
    assert not same(sent_to(grid, 0)["arrays"], sent_to(grid, 2)["arrays"])
    assert dict(sent_to(grid, 0)["config"]) == {"lr": 0.5, "local-steps": 1, "server-round": 2}


@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("global_every", [1, 3])
def test_one_group_is_fedavg_bit_for_bit(client, make_grid, replies, dtype, global_every):
    strategy = HierarchicalSGD(topology=Topology(1), global_every=global_every, cohort=5, seed=3)
    fedavg, model, expected = FedAvg(cohort=5, seed=3), model_of(dtype), model_of(dtype)
    for server_round in range(1, 6):
        expected, wanted = one_round(fedavg, make_grid(client, 9), server_round, expected)
        model, metrics = one_round(strategy, make_grid(client, 9, replies), server_round, model)
        assert dict(metrics) == dict(wanted)
    assert same(model, expected)


@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_global_rounds_alone_are_fedavg_to_rounding(client, make_grid, dtype, precision):
    strategy = HierarchicalSGD(topology=Topology(3), global_every=1, cohort=7, seed=3)
    fedavg, model, expected = FedAvg(cohort=7, seed=3), model_of(dtype), model_of(dtype)
    for server_round in range(1, 6):
        expected, wanted = one_round(fedavg, make_grid(client, 9), server_round, expected)
        model, metrics = one_round(strategy, make_grid(client, 9, "shuffled"), server_round, model)
        assert dict(metrics) == pytest.approx(dict(wanted), rel=1e-12)
        assert strategy.synchronised == fedavg.synchronised
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(model)[key], values, rtol=precision, atol=precision)


def blocks(grid, messages, size):
    """What an engine makes of a cohort with a fold: blocks summed apart, with read-only sums."""
    assert isinstance(messages, Cohort)
    replies = list(grid.send_and_receive(list(messages)))
    for start in range(0, len(replies), size):
        total = None
        for reply in replies[start : start + size]:
            if reply.has_error():
                yield reply
            else:
                total = messages.fold.add(total, reply)
        for own in total.groups.values() if total else ():
            for values in own.sums.values():
                values.flags.writeable = False
        if total:
            yield Folded(total, ())


@pytest.mark.parametrize("size", [1, 4, 11])
def test_summed_by_workers_or_by_the_server_is_the_same_mean(client, make_grid, make_error, size):
    def answer(partition, message):
        bad = partition == 5
        return make_error(message.metadata.dst_node_id, "gone") if bad else client(partition, message)

    options = {"topology": Topology(3), "global_every": 2}
    one, two = HierarchicalSGD(**options), HierarchicalSGD(**options, fold="workers")
    model = expected = MODEL
    for server_round in range(1, 5):
        expected, wanted = one_round(one, make_grid(answer, 11), server_round, expected)
        grid = make_grid(answer, 11)
        messages = two.configure_train(server_round, model, ConfigRecord(), grid)
        model, metrics = two.aggregate_train(server_round, blocks(grid, messages, size))
        assert dict(metrics) == pytest.approx(dict(wanted), rel=1e-12)
        assert len(two.failed) == 1
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(model)[key], values, rtol=1e-6)


# --- faults ---------------------------------------------------------------------------------------


def test_faults_are_left_out_of_their_group_and_counted(make_reply, make_grid, make_error):
    adds, fired = adding(make_reply, [1, 3, 2, 2, 1, 1]), []

    def faulty(partition, message):
        node = message.metadata.dst_node_id
        if partition in (1, 5):
            fired.append("malformed")
            return make_reply(partition, {"other": np.ones(2)}, node=node)
        if partition == 2:
            fired.append("error")
            return make_error(node, "no memory")
        return None if partition == 4 else adds(partition, message)

    strategy = HierarchicalSGD(topology=Topology.read("0-1:0,2-4:1,5:2"), global_every=5)
    grid = make_grid(faulty, 6)
    one_round(strategy, grid, 1)
    one_round(strategy, grid, 2)
    assert fired == ["malformed", "error", "malformed"] * 2
    assert [one.partition_id for one in strategy.refused] == [1, 5]
    assert len(strategy.failed) == 1
    assert decode_record(sent_to(grid, 0)["arrays"])["fc.bias"].tolist() == [1.0] * 2
    assert decode_record(sent_to(grid, 4)["arrays"])["fc.bias"].tolist() == [4.0] * 2
    assert same(sent_to(grid, 5)["arrays"], MODEL)


def test_a_reply_of_nobody_who_was_asked_is_refused(make_reply):
    sums = GroupedSum(WeightedSum(layout_of(MODEL)), {7: 0})
    total = sums.add(None, make_reply(3, MODEL, node=8))
    assert total.groups == {}
    assert "was not asked" in total.strangers[0].reason
    assert len(sums.merge(total, sums.add(None, make_reply(3, MODEL, node=9))).strangers) == 2


def test_where_all_are_lost_the_groups_stay_and_are_averaged_all_the_same(client, make_grid, make_error):
    lost = make_grid(lambda partition, message: make_error(message.metadata.dst_node_id, "gone"), 4)
    strategy = HierarchicalSGD(topology=TWO, global_every=3)
    assert one_round(strategy, lost, 1) == (None, None)
    assert (len(strategy.failed), strategy.synchronised) == (4, ())
    second, _ = one_round(strategy, make_grid(client, 4), 2)
    third, metrics = one_round(strategy, lost, 3, second)
    assert same(third, second)
    assert metrics is None
    assert strategy.synchronised == ("fc",)
    assert one_round(strategy, lost, 4, third) == (None, None)
    assert same(sent_to(lost, 0)["arrays"], third)


def test_replies_to_a_round_that_was_not_asked_for_are_an_error(client, make_grid):
    strategy = HierarchicalSGD(topology=TWO)
    with pytest.raises(EngineError, match="round 1 to aggregate"):
        strategy.aggregate_train(1, [])


# --- state, deployment ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut_before", [2, 3, 4, 6])
def test_a_resumed_run_is_the_run_bit_for_bit(client, make_grid, tmp_path, cut_before):
    options = {"topology": Topology(3), "global_every": 3, "cohort": 5}
    whole, model = HierarchicalSGD(**options), MODEL
    for server_round in range(1, 9):
        if server_round == cut_before:
            standing = Standing(server_round - 1, model, whole.state())
            kept = read_standing(write_standing(tmp_path, standing))
        model, _ = one_round(whole, make_grid(client, 8), server_round, model)
    cut = HierarchicalSGD(**options)
    cut.restore(kept.strategy_state)
    resumed = kept.model
    for server_round in range(cut_before, 9):
        resumed, _ = one_round(cut, make_grid(client, 8), server_round, resumed)
    assert same(resumed, model)
    assert cut.state().keys() == whole.state().keys()
    assert all(np.array_equal(cut.state()[name], values) for name, values in whole.state().items())


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"group-weights": np.zeros(3)},
        {"momentum": np.zeros(2)},
        {"group-weights": np.zeros(2), "momentum": np.zeros(2)},
    ],
)
def test_another_state_is_refused(state):
    with pytest.raises(ResumeError, match="expected that of 2 groups"):
        HierarchicalSGD(topology=TWO).restore(state)


def fc_bias(grid, partition):
    return decode_record(sent_to(grid, partition)["arrays"])["fc.bias"][0]


def test_clients_are_grouped_by_the_partition_they_tell_from_the_first_reply_on(make_reply, make_grid):
    grid = make_grid(adding(make_reply, [1] * 4), 4)
    grid.nodes = {node: [0, 2, 1, 3][place] for node, place in grid.nodes.items()}
    strategy = HierarchicalSGD(topology=TWO, global_every=9)
    first, _ = one_round(strategy, grid, 1)
    one_round(strategy, grid, 2, first)
    assert sent_to(grid, 0) is sent_to(grid, 1)
    assert sent_to(grid, 2) is sent_to(grid, 3)
    assert [fc_bias(grid, partition) for partition in range(4)] == [1.5, 1.5, 3.5, 3.5]


def test_a_first_reply_between_global_rounds_counts_where_its_model_came_from(make_reply, make_grid):
    adds, silent = adding(make_reply, [1] * 4), []

    def answer(partition, message):
        if partition == 0 and message.content["config"]["server-round"] == 1:
            silent.append(partition)
            return None
        return adds(partition, message)

    grid = make_grid(answer, 4)
    grid.nodes = {node: [2, 1, 0, 3][place] for node, place in grid.nodes.items()}
    strategy = HierarchicalSGD(topology=TWO, global_every=9)
    for server_round in (1, 2):
        one_round(strategy, grid, server_round)
    # By its place it is taken for one of group 1, which stood at 3.5 after round 1; then it tells who it is.
    assert [fc_bias(grid, partition) for partition in range(4)] == [3.5, 2.0, 3.5, 3.5]
    one_round(strategy, grid, 3)
    assert [fc_bias(grid, p) for p in range(4)] == pytest.approx([4.0, 4.0, 3.5 + 8 / 3, 3.5 + 8 / 3])
    assert silent == [0]


# --- the client of fedeff -------------------------------------------------------------------------


def data(partition: int, partitions: int) -> ClientData:
    rng = np.random.default_rng(partition)
    return ClientData(rng.random((20 + partition, 1, 6, 6), np.float32), rng.integers(0, 10, 20 + partition))


@pytest.mark.parametrize("fold", ["server", "workers"])
def test_with_the_client_of_fedeff_global_rounds_alone_are_fedavg(fold):
    state = build("logistic", input_shape=(1, 6, 6)).state_dict()
    arrays = encode_record({key: values.numpy() for key, values in state.items()})
    app = client_app(lambda: build("logistic", input_shape=(1, 6, 6)), data, LocalTraining(batch_size=4))

    def final(strategy):
        server, seen = ServerApp(), {}

        @server.main()
        def main(grid, context):
            seen["model"] = strategy.start(grid, arrays, num_rounds=3).arrays

        run_simulation(server, app, 7, engine="inline", block_size=2)
        assert strategy.refused == strategy.failed == ()
        return decode_record(seen["model"])

    expected = final(FedAvg(fold=fold))
    merged = final(HierarchicalSGD(topology=Topology(3), global_every=1, fold=fold))
    drifted = final(HierarchicalSGD(topology=Topology(3), global_every=3, fold=fold))
    for key, values in expected.items():
        np.testing.assert_allclose(merged[key], values, rtol=1e-5, atol=1e-6)
    assert any(not np.allclose(drifted[key], values, rtol=1e-3) for key, values in expected.items())
