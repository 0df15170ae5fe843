"""DiLoCo: Nesterov against torch, FedAvg as its plain case, fragments that take turns."""

import numpy as np
import pytest
import torch
from apps.cycles import Tagged
from apps.cycling import SHAPES, Clients, average, close, model, play, same, trained
from flwr.app import ConfigRecord

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record
from fedeff.strategies.byte_groups import groups_of_layers
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.nesterov import Nesterov


def test_a_step_by_hand():
    outer = Nesterov(learning_rate=0.5, momentum=0.5)
    held, velocity = outer.step(np.array([10.0]), np.array([6.0]), np.array([2.0]))
    # g = 4, v = 0.5 * 2 + 4 = 5, step 0.5 * (4 + 0.5 * 5) = 3.25
    assert (held.tolist(), velocity.tolist()) == ([6.75], [5.0])


def test_steps_are_those_of_torch():
    outer, rng = Nesterov(0.7, 0.9), np.random.default_rng(0)
    held = rng.normal(size=9)
    weights = torch.nn.Parameter(torch.from_numpy(held.copy()))
    reference = torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=True)
    velocity = np.zeros(9)
    for _ in range(6):
        average_now = rng.normal(size=9)
        weights.grad = weights.detach() - torch.from_numpy(average_now)
        reference.step()
        held, velocity = outer.step(held, average_now, velocity)
        np.testing.assert_allclose(held, weights.detach().numpy(), rtol=1e-13)


@pytest.mark.parametrize("fold", ["server", "workers"])
def test_rate_1_without_momentum_is_fedavg_to_rounding(make_grid, fold):
    options = {"cohort": 5, "seed": 4, "fold": fold}
    plainest = DiLoCo(outer_learning_rate=1, outer_momentum=0, **options)
    ours = play(plainest, make_grid(Clients(), 9, "streamed"), model(), 5)
    plain = play(Tagged(**options), make_grid(Clients(), 9, "streamed"), model(), 5)
    for one, two in zip(ours, plain, strict=True):
        close(one.arrays, two.arrays, rtol=1e-12)
        assert one.partitions == two.partitions
        assert one.metrics == two.metrics


def naive(fragments, sweeps, close_cycles, rounds, rate=0.7, momentum=0.9, clients=5):
    server = decode_record(model())
    cut, length = groups_of_layers(server, fragments), fragments * sweeps
    velocity = {key: np.zeros(shape) for key, shape in SHAPES.items()}
    for server_round in range(1, rounds + 1):
        t = (server_round - 1) % length
        if t == 0:
            local = {p: dict(server) for p in range(clients)}
        local = {p: trained(weights, p, server_round) for p, weights in local.items()}
        due = tuple(server) if close_cycles and t == length - 1 else cut[t % fragments]
        for key, mean in average(local, due).items():
            gradient = server[key] - mean
            velocity[key] = momentum * velocity[key] + gradient
            server = {**server, key: server[key] - rate * (gradient + momentum * velocity[key])}
            local = {p: {**weights, key: server[key]} for p, weights in local.items()}
        yield server, due


@pytest.mark.parametrize("close_cycles", [True, False])
@pytest.mark.parametrize(("fragments", "sweeps"), [(1, 1), (3, 1), (2, 3)])
def test_it_agrees_with_a_naive_twin_in_every_round(make_grid, fragments, sweeps, close_cycles):
    strategy = DiLoCo(fragments=fragments, sweeps=sweeps, close_cycles=close_cycles)
    seen = list(play(strategy, make_grid(Clients(), 5), model(), 7))
    for one, (server, due) in zip(seen, naive(fragments, sweeps, close_cycles, 7), strict=True):
        close(one.arrays, server, rtol=1e-11)
        assert tuple(one.config().get("layers-due", list(SHAPES))) == due


def test_each_fragment_travels_once_in_so_many_rounds(make_grid):
    strategy = DiLoCo(fragments=4, sweeps=2, close_cycles=False)
    seen = [one.synchronised for one in play(strategy, make_grid(Clients(), 3), model(), 16)]
    for start in range(0, 16, 4):
        assert sorted(layer for layers in seen[start : start + 4] for layer in layers) == [
            "conv",
            "fc1",
            "fc2",
            "scale",
        ]


def test_clients_are_told_their_optimiser_and_keep_its_moments(make_grid):
    def sent(**options):
        strategy, grid = DiLoCo(**options), make_grid(Clients(), 2)
        config = ConfigRecord({"learning-rate": 0.05})
        message = next(iter(strategy.configure_train(1, model(), config, grid)))
        keys = ("optimizer", "learning-rate", "keep-optimizer")
        return {key: message.content["config"][key] for key in keys if key in message.content["config"]}

    assert sent() == {"optimizer": "adamw", "learning-rate": 0.001, "keep-optimizer": True}
    theirs = sent(inner_optimizer="", inner_learning_rate=0, keep_optimizer=False)
    assert theirs == {"learning-rate": 0.05}
    assert sent(train_config={"optimizer": "sgd"})["optimizer"] == "sgd"


@pytest.mark.parametrize("fault", ["reply", "malformed", "nan", "forget"])
def test_who_does_not_answer_moves_no_velocity(make_grid, fault):
    clients = Clients({(partition, 2): fault for partition in range(3)})
    strategy, grid = DiLoCo(fragments=2), make_grid(clients, 3)
    rounds = play(strategy, grid, model(), 2)
    first, before = next(rounds), strategy.state()
    second, after = next(rounds), strategy.state()
    assert clients.fired == {fault: 3}
    assert same(second.model, first.model)
    velocities = {key: values for key, values in before.items() if key.startswith("velocity/")}
    assert velocities
    assert all(np.array_equal(after[key], values) for key, values in velocities.items())


def test_arrays_of_integers_get_their_mean_and_no_momentum(make_grid, make_reply):
    start = encode_record({"bn.weight": np.ones(2, np.float32), "bn.count": np.array(4)})

    def client(partition, message):
        values = {"bn.weight": np.full(2, 3, np.float32), "bn.count": np.array(10 + 2 * partition)}
        return make_reply(partition, values, 1, node=message.metadata.dst_node_id)

    strategy = DiLoCo(outer_learning_rate=0.5, outer_momentum=0)
    (played,) = play(strategy, make_grid(client, 2), start, 1)
    assert played.arrays["bn.count"] == 11
    assert played.arrays["bn.weight"].tolist() == [2, 2]
    assert list(played.model) == list(start)
    assert [key for key in strategy.state() if key.startswith("velocity/")] == ["velocity/bn.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_learning_rate": 0}, "outer-learning-rate is 0"),
        ({"outer_momentum": 1}, "outer-momentum is 1"),
        ({"fragments": 0}, "fragments is 0"),
        ({"sweeps": 0}, "sweeps is 0"),
        ({"inner_learning_rate": -1}, "inner_learning_rate is -1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiLoCo(**options)
