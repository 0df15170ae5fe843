"""Gradient coding as a strategy: the step of full-batch descent, whoever of `stragglers` is missing."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord, Context, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.codes.gradient_coding import cyclic
from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record
from fedeff.models import build
from fedeff.strategies import FedAvg, GradientCoding
from fedeff.strategies.coded_sum import amplification
from fedeff.strategies.gradient_coding import code_for

START = {"fc.weight": np.array([1.0, -2.0, 0.5], np.float32), "fc.bias": np.array(0.25, np.float32)}
CODES = ["cyclic", "fractional"]


def part(index):
    """The rows of a linear regression's part; parts have 1 to 4 of them."""
    rng = np.random.default_rng(index)
    rows = 1 + index % 4
    return rng.standard_normal((rows, 3)), rng.standard_normal(rows)


def summed(index, weights):
    """The gradient of half the squared error, summed over a part's rows: by hand, in float64."""
    x, y = part(index)
    off = x @ weights["fc.weight"].astype(np.float64) + float(weights["fc.bias"]) - y
    return {"fc.weight": off @ x, "fc.bias": np.array(off.sum())}


def descent(weights, parts, rate, velocity=None, momentum=0.0):
    """One step of gradient descent on the mean loss over all rows of the parts, and the velocity."""
    rows = sum(len(part(index)[1]) for index in parts)
    found, velocities = {}, {}
    for key, values in weights.items():
        gradient = sum(summed(index, weights)[key] for index in parts) / rows
        velocities[key] = gradient + momentum * (0 if velocity is None else velocity[key])
        found[key] = (values - rate * velocities[key]).astype(np.float32)
    return found, velocities


class Workers:
    """Clients that answer as the message tells them; those that are `missing` say nothing, or fail."""

    def __init__(self, make_reply, make_error=None, missing=()):
        self.make_reply, self.make_error, self.missing = make_reply, make_error, set(missing)

    def __call__(self, worker, message):
        node = message.metadata.dst_node_id
        if worker in self.missing:
            return self.make_error(node, "the client's own mistake") if self.make_error else None
        return self.answer(worker, message, node)

    def answer(self, worker, message, node):
        config, weights = message.content["config"], decode_record(message.content["arrays"])
        assert config["procedure"] == "coded-gradient"
        shares = list(zip(config[f"parts:{worker}"], config[f"coefficients:{worker}"], strict=True))
        arrays = {
            key: np.asarray(sum(c * summed(p, weights)[key] for p, c in shares), np.float32)
            for key in weights
        }
        rows = {p: len(part(p)[1]) for p, _ in shares}
        metrics = {"coded-examples": sum(c * rows[p] for p, c in shares), "train-loss": 1.0}
        return self.make_reply(worker, arrays, sum(rows.values()), node=node, metrics=metrics)


def play(strategy, grid, rounds=1, model=None, first=1):
    """The model after so many rounds."""
    arrays = encode_record(START) if model is None else model
    for server_round in range(first, first + rounds):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        merged, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        arrays = merged or arrays
    return arrays


def close(record, expected, tolerance=1e-5):
    for key, values in decode_record(record).items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[key], rtol=tolerance, atol=tolerance)


# --- laws -----------------------------------------------------------------------------------------


@given(data=st.data())
def test_any_stragglers_may_be_missing_from_full_batch_descent(make_reply, make_error, make_grid, data):
    s = data.draw(st.integers(0, 3), "s")
    groups = data.draw(st.integers(1, 3), "groups")
    name = data.draw(st.sampled_from(CODES), "code")
    n = groups * (s + 1) if name == "fractional" else s + groups
    missing = data.draw(st.sets(st.integers(0, n - 1), max_size=s), "missing")
    failing = make_error if data.draw(st.booleans(), "they fail") else None
    replies = data.draw(st.sampled_from(["list", "shuffled", "streamed"]), "replies")
    strategy = GradientCoding(stragglers=s, code=name, learning_rate=0.3)
    grid = make_grid(Workers(make_reply, failing, missing), n, replies)
    expected, _ = descent(START, range(n), 0.3)
    close(play(strategy, grid), expected)
    assert strategy.measures["decode-residual"] < 1e-9
    assert strategy.synchronised == ("fc",)
    assert len(strategy.failed) == (len(missing) if failing else 0)


@pytest.mark.parametrize("name", CODES)
def test_rounds_with_momentum_are_sgd_of_torch_s(make_reply, make_grid, name):
    workers = Workers(make_reply)
    grid = make_grid(workers, 6)
    strategy = GradientCoding(stragglers=1, code=name, learning_rate=0.2, server_momentum=0.9)
    tensors = {key: torch.tensor(values, requires_grad=True) for key, values in START.items()}
    optimizer = torch.optim.SGD(tensors.values(), lr=0.2, momentum=0.9)
    model = encode_record(START)
    for server_round in range(1, 7):
        workers.missing = {server_round % 6}
        model = play(strategy, grid, model=model, first=server_round)
        weights = {key: values.detach().numpy() for key, values in tensors.items()}
        rows = sum(len(part(index)[1]) for index in range(6))
        for key, values in tensors.items():
            gradient = sum(summed(index, weights)[key] for index in range(6)) / rows
            values.grad = torch.tensor(np.asarray(gradient, np.float32))
        optimizer.step()
    close(model, {key: values.detach().numpy() for key, values in tensors.items()})


def test_a_schedule_scales_the_step(make_reply, make_grid):
    strategy = GradientCoding(learning_rate=0.4, train_config={"learning-rate-scale": 0.25})
    close(play(strategy, make_grid(Workers(make_reply), 3)), descent(START, range(3), 0.1)[0])


def test_networks_of_clients_take_the_step_of_all_data(make_grid, make_error):
    """The ClientApp of fedeff, batches of seven: two of five clients missing, another two each round."""

    def data(partition, partitions):
        rng, rows = np.random.default_rng(partition), 9 + 4 * partition
        return ClientData(rng.random((rows, 1, 4, 4), np.float32), rng.integers(0, 10, rows))

    def network():
        return build("mlp", input_shape=(1, 4, 4))

    app = client_app(network, data, LocalTraining(batch_size=7))

    def client(partition, message):
        server_round = message.content["config"]["server-round"]
        if partition in (server_round % 5, (server_round + 1) % 5):
            return make_error(message.metadata.dst_node_id, "gone")
        node = {"partition-id": partition, "num-partitions": 5}
        return app(message, Context(1, message.metadata.dst_node_id, node, RecordDict(), {}))

    net = network()
    start = encode_record({key: values.numpy().copy() for key, values in net.state_dict().items()})
    strategy = GradientCoding(stragglers=2, learning_rate=0.5, server_momentum=0.5)
    model = play(strategy, make_grid(client, 5), 4, start)
    every = [data(partition, 5) for partition in range(5)]
    x = torch.from_numpy(np.concatenate([one.train_x for one in every]))
    y = torch.from_numpy(np.concatenate([one.train_y for one in every]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    close(model, {key: values.numpy() for key, values in net.state_dict().items()})


# --- beyond the code ------------------------------------------------------------------------------


def test_a_group_that_is_gone_leaves_the_step_on_the_other_data(make_reply, make_grid):
    """Fractional repetition: clients 2 and 3 share the parts 2 and 3, which nobody else has."""
    strategy = GradientCoding(code="fractional", learning_rate=0.3)
    model = play(strategy, make_grid(Workers(make_reply, missing={2, 3, 5}), 6))
    close(model, descent(START, [0, 1, 4, 5], 0.3)[0])
    assert strategy.measures["decode-residual"] == pytest.approx(2**0.5)


def test_beyond_the_stragglers_the_residual_tells_and_the_step_descends(make_reply, make_grid):
    strategy = GradientCoding(stragglers=1, learning_rate=0.05)
    model = play(strategy, make_grid(Workers(make_reply, missing={0, 3, 4}), 8))
    assert strategy.measures["decode-residual"] > 0.1
    exact = descent(START, range(8), 0.05)[0]
    step = {key: values - START[key] for key, values in decode_record(model).items()}
    assert sum(np.sum(step[key] * (exact[key] - START[key])) for key in step) > 0


@pytest.mark.parametrize(("least", "steps"), [(0.66, True), (0.67, False), (1.0, False)])
def test_answers_for_too_little_of_the_data_make_no_step(make_reply, make_grid, least, steps):
    """Two thirds of the parts are covered."""
    strategy = GradientCoding(code="fractional", least_coverage=least, server_momentum=0.9)
    model = play(strategy, make_grid(Workers(make_reply, missing={2, 3}), 6))
    assert (model != encode_record(START)) == steps
    assert bool(strategy.state()) == steps
    assert strategy.measures["decode-residual"] == pytest.approx(2**0.5)
    assert strategy.synchronised == (("fc",) if steps else ())


def test_a_least_coverage_of_all_takes_exact_steps(make_reply, make_grid):
    strategy = GradientCoding(stragglers=2, least_coverage=1.0, learning_rate=0.3)
    model = play(strategy, make_grid(Workers(make_reply, missing={1, 4}), 7))
    close(model, descent(START, range(7), 0.3)[0])


def test_nobody_answers(make_reply, make_grid):
    strategy = GradientCoding()
    assert play(strategy, make_grid(Workers(make_reply, missing=range(4)), 4)) == encode_record(START)
    assert strategy.measures == {"decode-residual": 2.0, "decode-amplification": 0.0}


# --- replies that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda make, node: make(0, START, 3, node=node), "procedure 'coded-gradient'"),
        (
            lambda make, node: make(0, START, 3, node=node, metrics={"coded-examples": float("nan")}),
            "coded-examples' is nan",
        ),
        (
            lambda make, node: make(None, START, 3, node=node, metrics={"coded-examples": 1.0}),
            "partition-id is None, expected a worker from 0 to 3",
        ),
        (lambda make, node: make(4, START, 3, node=node, metrics={"coded-examples": 1.0}), "is 4, expected"),
        (
            lambda make, node: make(1, START, 3, node=node, metrics={"coded-examples": 1.0}),
            "worker 1 of the gradient code has answered already",
        ),
        (
            lambda make, node: make(
                0, {**START, "fc.bias": np.array(np.nan, "f4")}, 3, node=node, metrics={"coded-examples": 1.0}
            ),
            "'fc.bias' holds NaN",
        ),
        (lambda make, node: make(0, START, 0, node=node, metrics={"coded-examples": 1.0}), "num-examples"),
    ],
)
def test_a_reply_that_does_not_fit_counts_as_missing(make_reply, make_grid, spoilt, reason):
    workers = Workers(make_reply)

    def client(worker, message):
        return spoilt(make_reply, message.metadata.dst_node_id) if worker == 0 else workers(worker, message)

    strategy = GradientCoding(learning_rate=0.3)
    model = play(strategy, make_grid(client, 4, "streamed"))
    assert [reason in one.reason for one in strategy.refused] == [True]
    if "already" not in reason:  # there the wrong one came first
        close(model, descent(START, range(4), 0.3)[0])


# --- who takes part -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize(("n", "s"), [(4, 1), (6, 2), (8, 3), (5, 0)])
def test_each_client_holds_its_own_part_and_the_stragglers_of_others(name, n, s):
    if n % (s + 1) and name == "fractional":
        return
    for worker, parts in enumerate(code_for(name, n, s).parts):
        assert worker in parts
        assert len(parts) == s + 1


@pytest.mark.parametrize(("n", "s"), [(8, 2), (9, 2), (10, 3), (9, 4), (11, 3)])
def test_errors_grow_most_where_clients_in_a_row_are_missing(n, s):
    code, found = cyclic(n, s), {}
    for missing in itertools.combinations(range(n), s):
        mask = ~np.isin(np.arange(n), missing)
        found[missing] = amplification(code, code.decode_weights(mask)[0])
    row = {tuple(sorted((first + k) % n for k in range(s))) for first in range(n)}
    assert max(found, key=lambda m: round(found[m], 9)) in row


@pytest.mark.parametrize(
    ("options", "clients", "message"),
    [
        ({"stragglers": -1}, 4, "stragglers is -1 of 4 clients, expected 0 to 3"),
        ({"stragglers": 4}, 4, "stragglers is 4 of 4 clients, expected 0 to 3"),
        ({"stragglers": 2, "code": "fractional"}, 4, "s \\+ 1 = 3 does not divide n = 4; take `cyclic`"),
        ({"stragglers": 10}, 50, "would multiply rounding errors to .* take fewer stragglers"),
        ({"cohort": 3}, 4, "cohort is 3 of 4 clients, but each client is a worker"),
    ],
)
def test_clients_that_no_code_is_for_are_refused(make_reply, make_grid, options, clients, message):
    strategy = GradientCoding(**options)
    for attempt in (
        lambda: strategy.check_clients(clients),
        lambda: play(strategy, make_grid(Workers(make_reply), clients)),
    ):
        with pytest.raises(ConfigError, match=message) as refused:
            attempt()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code": "cycli"}, "unknown gradient code 'cycli'; did you mean 'cyclic'"),
        ({"wait_for": "eough"}, "did you mean 'enough'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"server_momentum": 1.0}, "server_momentum is 1.0"),
        ({"least_coverage": 0.0}, r"least_coverage is 0.0, expected a share in \(0, 1\]"),
        ({"fold": "workers"}, "fold is 'workers'"),
        ({"cohort": 3, "stragglers": 3}, "stragglers is 3 of 3 clients"),
        ({"train_config": {"procedure": "train"}}, "train_config sets procedure"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        GradientCoding(**options)
    assert "\n" not in str(refused.value)


def test_a_client_that_has_left_is_missing_and_one_more_is_refused(make_reply, make_grid):
    strategy, grid = GradientCoding(learning_rate=0.3), make_grid(Workers(make_reply), 4)
    first = play(strategy, grid)
    nodes = dict(grid.nodes)
    grid.nodes.pop(min(nodes))
    second = play(strategy, grid, model=first, first=2)
    close(second, descent(decode_record(first), range(4), 0.3)[0])
    grid.nodes = {**nodes, 7: 4}
    with pytest.raises(ConfigError, match="5 clients are connected, but the gradient code of this run has 4"):
        play(strategy, grid, model=second, first=3)


def test_a_round_that_was_not_configured_has_no_replies():
    with pytest.raises(EngineError, match="configure_train was never called"):
        GradientCoding().aggregate_train(1, [])


# --- what goes on ---------------------------------------------------------------------------------


def test_velocities_go_on_from_a_checkpoint_and_end_with_the_model(make_reply, make_grid):
    def made():
        return GradientCoding(learning_rate=0.1, server_momentum=0.9)

    whole = play(made(), make_grid(Workers(make_reply), 4), 4)
    before, after = made(), made()
    model = play(before, make_grid(Workers(make_reply), 4), 2)
    after.restore({key: values.copy() for key, values in before.state().items()})
    assert play(after, make_grid(Workers(make_reply), 4), 2, model, first=3) == whole
    after.model_replaced()
    assert after.state() == {}
    assert GradientCoding().state() == {}
    with pytest.raises(ResumeError, match="resume with the strategy that the run was started with"):
        made().restore({"cycle": np.zeros(2)})


def test_only_enough_is_not_resumed_to_the_same_bits():
    assert GradientCoding().resumes_exactly
    assert FedAvg.resumes_exactly
    assert not GradientCoding(wait_for="enough").resumes_exactly
