"""Adaptive update frequency with clients that fail, cut runs, and the client of fedeff."""

import numpy as np
import pytest
import torch
from apps.gathering import MODEL, Members, configs, naive, noisy, one_round, run, same
from flwr.serverapp import ServerApp

from fedeff.app.checkpoints import Standing, read_standing, write_standing
from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.errors import ResumeError
from fedeff.core.layers import decode_record, encode_record, group_layers, payload_bytes, subset
from fedeff.core.lists import NO_PART
from fedeff.grids import MeteredGrid
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg
from fedeff.strategies.update_frequency import AdaptiveUpdateSGD

# --- faults ---------------------------------------------------------------------------------------


def test_members_that_vanish_or_forget_or_send_nonsense(make_reply, make_grid, make_error):
    members, fired = Members(make_reply, noisy), []

    def faulty(partition, message):
        server_round, node = message.content["config"]["server-round"], message.metadata.dst_node_id
        if (partition, server_round) == (1, 2):
            fired.append("vanished")
            return None
        if (partition, server_round) == (2, 3):
            fired.append("lost state")
            del members.kept[2]
        if (partition, server_round) == (3, 4):
            fired.append("no accumulation")
            return make_reply(3, MODEL, node=node)
        if (partition, server_round) == (4, 5):
            fired.append("error")
            return make_error(node, "no memory")
        return members(partition, message)

    grid, strategy = make_grid(faulty, 6), AdaptiveUpdateSGD(cycle_rounds=8, learning_rate=0.1)
    model, seen = MODEL, []
    for server_round in range(1, 10):
        model = one_round(strategy, grid, server_round, model)
        asked = [grid.nodes[one.metadata.dst_node_id] for one in grid.sent[-1]]
        seen.append((asked, len(strategy.need_full), len(strategy.refused), len(strategy.failed)))
    everyone, rest, last = [*range(6)], [0, 2, 3, 4, 5], [0, 2, 3, 5]
    assert fired == ["vanished", "lost state", "no accumulation", "error"]
    assert seen == [
        (everyone, 0, 0, 0),
        (everyone, 0, 0, 0),  # 1 vanishes: it leaves the cycle
        (rest, 1, 0, 0),  # 2 has lost its state and gets the full model next
        (rest, 0, 1, 0),  # 3 answers with weights instead of gradients
        (rest, 0, 0, 1),  # 4 fails and leaves the cycle
        (last, 0, 0, 0),
        (last, 0, 0, 0),
        (last, 0, 0, 0),
        (everyone, 0, 0, 0),  # a new cycle
    ]
    full = {
        grid.nodes[one.metadata.dst_node_id]
        for one in grid.sent[3]
        if set(one.content["arrays"]) == set(MODEL)
    }
    assert full == {2}
    assert all(np.isfinite(values).all() for values in decode_record(model).values())


def test_a_reply_without_agreements_adds_nothing(make_reply, make_grid):
    members = Members(make_reply, noisy)

    def answer(partition, message):
        if partition == 2:
            return make_reply(2, MODEL, 1000, node=message.metadata.dst_node_id)
        return members(partition, message)

    strategy = AdaptiveUpdateSGD(cycle_rounds=1, learning_rate=0.1)
    model = run(strategy, make_grid(answer, 3), [1])
    expected = naive(noisy, range(2), [1], learning_rate=0.1, theta=0.9, c_max=4, cycle_rounds=1)
    np.testing.assert_allclose(decode_record(model)["fc.weight"], expected["fc.weight"], rtol=1e-12)
    assert "agreement:conv' is nan" in strategy.refused[0].reason


def test_where_all_are_lost_a_new_cycle_begins(make_reply, make_grid, make_error):
    members, lost = Members(make_reply, noisy), []

    def answer(partition, message):
        if message.content["config"]["server-round"] == 3:
            lost.append(partition)
            return make_error(message.metadata.dst_node_id, "gone")
        return members(partition, message)

    grid, strategy = make_grid(answer, 3), AdaptiveUpdateSGD(cycle_rounds=8, c_max=2, learning_rate=0.1)
    model = run(strategy, grid, [1, 2])
    assert same(one_round(strategy, grid, 3, model), model)
    assert (lost, strategy.synchronised) == ([0, 1, 2], ())
    run(strategy, grid, [4, 5], model)
    tags = [(one["cycle"], one["cycle-round"]) for one in configs(grid)]
    assert tags == [(1, 0), (1, 1), (1, 2), (4, 0), (4, 1)]
    assert [one.get("layers-due") for one in configs(grid)[3:]] == [[NO_PART], None]


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_before", [2, 5, 6, 9])
def test_a_resumed_run_is_the_run_bit_for_bit(make_reply, make_grid, tmp_path, cut_before):
    options = {"cycle_rounds": 5, "c_max": 3, "cohort": 4, "learning_rate": 0.1}
    whole, grid = AdaptiveUpdateSGD(**options), make_grid(Members(make_reply, noisy), 7)
    middle = run(whole, grid, range(1, cut_before))
    standing = Standing(cut_before - 1, middle, whole.state())
    kept = read_standing(write_standing(tmp_path, standing))
    memory = {p: (tag, w, dict(g)) for p, (tag, w, g) in grid.client.kept.items()}
    model = run(whole, grid, range(cut_before, 12), middle)
    cut, other = AdaptiveUpdateSGD(**options), make_grid(Members(make_reply, noisy), 7)
    other.client.kept = memory
    cut.restore(kept.strategy_state)
    assert same(run(cut, other, range(cut_before, 12), kept.model), model)
    assert cut.state().keys() == whole.state().keys()
    assert all(np.array_equal(cut.state()[name], values) for name, values in whole.state().items())


def test_another_strategy_s_state_is_refused():
    strategy = AdaptiveUpdateSGD()
    assert strategy.state() == {}
    strategy.restore({})
    with pytest.raises(ResumeError):
        strategy.restore({"momentum": np.zeros(1)})


# --- the client of fedeff -------------------------------------------------------------------------


def data(partition: int, partitions: int) -> ClientData:
    rng = np.random.default_rng(partition)
    return ClientData(rng.random((20, 1, 6, 6), np.float32), rng.integers(0, 10, 20))


def simulated(strategy, rounds, arrays, model=lambda: build("mlp", input_shape=(1, 6, 6))):
    app = client_app(model, data, LocalTraining(batch_size=20))
    server, seen = ServerApp(), {}

    @server.main()
    def main(grid, context):
        metered = MeteredGrid(grid)
        seen["model"] = strategy.start(metered, arrays, num_rounds=rounds).arrays
        seen["exchanges"] = metered.exchanges

    run_simulation(server, app, 4, engine="inline")
    assert strategy.refused == strategy.failed == ()
    assert strategy.need_full == ()
    return seen["model"], seen["exchanges"]


def test_with_the_client_of_fedeff_fewer_bytes_travel_both_ways():
    state = build("mlp", input_shape=(1, 6, 6)).state_dict()
    arrays = encode_record({key: values.numpy() for key, values in state.items()})
    strategy = AdaptiveUpdateSGD(c_max=4, cycle_rounds=8, learning_rate=0.1)
    model, exchanges = simulated(strategy, 8, arrays)
    whole, layers = 4 * payload_bytes(arrays), group_layers(arrays)
    sizes = {0, whole, *(4 * payload_bytes(subset(arrays, keys)) for keys in layers.values())}
    assert exchanges[0].downlink_bytes == whole
    assert [one.downlink_bytes for one in exchanges[1:]] == [one.uplink_bytes for one in exchanges[:-1]]
    assert {one.uplink_bytes for one in exchanges} <= sizes
    assert exchanges[-1].uplink_bytes == whole
    assert sum(one.uplink_bytes for one in exchanges) <= 4 * whole
    assert not same(model, arrays)


def test_with_the_client_of_fedeff_one_gradient_at_a_time_is_fedavg_with_one_step():
    state = build("mlp", input_shape=(1, 6, 6)).state_dict()
    arrays = encode_record({key: values.numpy() for key, values in state.items()})
    model, _ = simulated(AdaptiveUpdateSGD(c_max=1, cycle_rounds=3, learning_rate=0.1), 4, arrays)
    fedavg = FedAvg(train_config={"local-steps": 1, "learning-rate": 0.1})
    expected, _ = simulated(fedavg, 4, arrays)
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(model)[key], values, rtol=1e-4, atol=1e-6)


# --- running statistics ---------------------------------------------------------------------------


def normalised():
    """A model with running statistics."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
    )


def first_of(model):
    return encode_record({key: values.numpy() for key, values in model.state_dict().items()})


def test_buffers_move_as_they_do_with_fedavg():
    arrays = first_of(normalised())
    strategy = AdaptiveUpdateSGD(c_max=1, cycle_rounds=3, learning_rate=0.1)
    model, _ = simulated(strategy, 4, arrays, normalised)
    fedavg = FedAvg(train_config={"local-steps": 1, "learning-rate": 0.1})
    expected, _ = simulated(fedavg, 4, arrays, normalised)
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(model)[key], values, rtol=1e-4, atol=1e-5, err_msg=key)
        assert not np.array_equal(values, decode_record(arrays)[key])


def test_buffers_move_on_clients_until_their_layer_is_sent():
    strategy = AdaptiveUpdateSGD(c_max=4, theta=-1, cycle_rounds=8, learning_rate=0.1)
    model, exchanges = simulated(strategy, 4, first_of(normalised()), normalised)
    assert [one.uplink_bytes > 0 for one in exchanges] == [False, False, False, True]
    assert decode_record(model)["2.num_batches_tracked"] == 4
    assert strategy.synchronised == ("1", "2", "3")


@pytest.mark.parametrize(("told", "expected"), [((0, 1, 2), 5.0), ((0, 2), 3.0), ((), 3.0)])
def test_where_only_some_clients_say_what_their_buffers_are_these_stay(make_reply, make_grid, told, expected):
    """A client that does not has sent zeros: nothing is averaged that is not of one kind."""

    def answer(partition, message):
        metrics = {"agreement:bn": 1.0, "train-loss": 1.0}
        metrics |= {"value:bn.running_mean": 1} if partition in told else {}
        values = 5.0 if partition in told else 0.0
        reply = {"bn.weight": np.ones(2), "bn.running_mean": np.full(2, values)}
        return make_reply(partition, reply, 1, node=message.metadata.dst_node_id, metrics=metrics)

    start = encode_record({"bn.weight": np.ones(2), "bn.running_mean": np.full(2, 3.0)})
    strategy = AdaptiveUpdateSGD(learning_rate=0.5, cycle_rounds=1)
    model = decode_record(one_round(strategy, make_grid(answer, 3), 1, start))
    assert strategy.refused == ()
    assert model["bn.weight"].tolist() == [0.5] * 2
    assert model["bn.running_mean"].tolist() == [expected] * 2
