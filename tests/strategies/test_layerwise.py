"""LayerwiseAvg: FedAvg where every layer is due, and layers that are not due keep their value."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record, payload_bytes
from fedeff.strategies import FedAvg, LayerwiseAvg
from fedeff.strategies.layerwise import due_layers, intervals_by_size, largest_layers, layer_bytes

MODEL = encode_record(
    {
        "conv.weight": np.ones((3, 20), np.float32),
        "fc1.weight": np.ones((100, 20), np.float32),
        "conv.bias": np.ones(3, np.float32),
        "fc1.bias": np.ones(20, np.float32),
        "fc2.weight": np.ones((20, 10), np.float32),
    }
)
LARGE, SMALL = ["fc1.weight", "fc1.bias"], ["conv.weight", "conv.bias", "fc2.weight"]


@pytest.fixture
def client(make_reply):
    """Adds a step of its own to every array; sends back those that are due."""

    def answer(partition, message):
        config = message.content["config"]
        arrays = decode_record(message.content["arrays"])
        rng = np.random.default_rng([partition, config["server-round"]])
        new = {
            key: values + rng.normal(size=values.shape).astype(np.float32) for key, values in arrays.items()
        }
        due = config.get("layers-due", list(new))
        return make_reply(partition, {key: new[key] for key in due}, partition + 1)

    return answer


def one_round(strategy, grid, server_round, model):
    messages = strategy.configure_train(server_round, model, ConfigRecord(), grid)
    return strategy.aggregate_train(server_round, grid.send_and_receive(messages))[0]


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("options", [{"layer_interval": 1}, {"intervals": {}}, {"intervals": {"fc1": 1}}])
def test_interval_one_is_fedavg_bit_for_bit(client, make_grid, options, replies):
    model = expected = MODEL
    strategy = LayerwiseAvg(**options, cohort=5, seed=2)
    for server_round in (1, 2, 3):
        expected = one_round(FedAvg(cohort=5, seed=2), make_grid(client, 8), server_round, expected)
        model = one_round(strategy, make_grid(client, 8, replies), server_round, model)
    assert same(model, expected)


def test_a_model_of_one_layer_is_fedavg_bit_for_bit(client, make_grid):
    single = encode_record({"fc.weight": np.ones((4, 3), np.float32), "fc.bias": np.ones(3, np.float32)})
    model = expected = single
    for server_round in (1, 2, 3):
        expected = one_round(FedAvg(), make_grid(client, 4), server_round, expected)
        model = one_round(LayerwiseAvg(layer_interval=3), make_grid(client, 4), server_round, model)
    assert same(model, expected)


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
def test_layers_not_due_keep_their_value_and_the_others_are_averaged(client, make_grid, fold, replies):
    strategy, grid = LayerwiseAvg(layer_interval=3, fold=fold), make_grid(client, 6, replies)
    after = {1: one_round(strategy, grid, 1, MODEL)}
    for server_round in (2, 3, 4):
        last = after[server_round - 1]
        after[server_round] = now = one_round(strategy, grid, server_round, last)
        full = one_round(FedAvg(fold=fold), make_grid(client, 6, replies), server_round, last)
        assert list(now) == list(MODEL)
        for key in SMALL:
            assert now[key].data == full[key].data
        for key in LARGE:
            assert now[key].data == (full if server_round == 4 else last)[key].data
    assert strategy.refused == ()


def test_clients_are_told_what_is_due_only_where_that_is_less_than_all(client, make_grid):
    strategy, grid = LayerwiseAvg(layer_interval=2), make_grid(client, 3)
    for server_round, due in [(1, None), (2, SMALL), (3, None), (4, SMALL)]:
        messages = strategy.configure_train(server_round, MODEL, ConfigRecord(), grid)
        assert [one.content["config"].get("layers-due") for one in messages] == [due] * 3


def test_what_goes_up_is_only_what_is_due(client, make_grid):
    strategy, grid = LayerwiseAvg(layer_interval=2), make_grid(client, 1)
    messages = strategy.configure_train(2, MODEL, ConfigRecord(), grid)
    (reply,) = grid.send_and_receive(messages)
    assert payload_bytes(reply.content) == sum(len(MODEL[key].data) for key in SMALL)


def test_clients_that_send_everything_all_the_same_are_refused(client, make_grid, make_reply):
    strategy = LayerwiseAvg(layer_interval=2)
    grid = make_grid(lambda partition, message: make_reply(partition, message.content["arrays"]), 3)
    assert one_round(strategy, grid, 2, MODEL) is None
    assert all("unexpected ['fc1.bias', 'fc1.weight']" in one.reason for one in strategy.refused)


def test_intervals_by_name(client, make_grid):
    strategy = LayerwiseAvg(intervals={"conv": 3, "fc1": 2})
    assert strategy.layer_intervals(MODEL) == {"conv": 3, "fc1": 2, "fc2": 1}
    due = [strategy.due_keys(server_round, MODEL) for server_round in range(1, 8)]
    assert due[0] == due[6] == tuple(MODEL)
    assert due[1] == due[5] == ("fc2.weight",)
    assert due[2] == due[4] == ("fc1.weight", "fc1.bias", "fc2.weight")
    assert due[3] == ("conv.weight", "conv.bias", "fc2.weight")


def test_a_layer_that_the_model_has_not_is_refused(client, make_grid):
    strategy = LayerwiseAvg(intervals={"cnov": 2})
    with pytest.raises(ConfigError, match="did you mean 'conv'"):
        strategy.configure_train(1, MODEL, ConfigRecord(), make_grid(client, 3))


def test_some_layer_must_be_due_in_every_round(client, make_grid):
    strategy = LayerwiseAvg(intervals={"conv": 2, "fc1": 2, "fc2": 4})
    with pytest.raises(ConfigError, match="no layer has interval 1"):
        strategy.configure_train(1, MODEL, ConfigRecord(), make_grid(client, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_interval": 0}, "interval 0 of layer_interval"),
        ({"intervals": {"fc1": -1}}, "interval -1 of fc1"),
        ({"large_share": 0.0}, "large_share is 0.0"),
        ({"large_share": 1.5}, "large_share is 1.5"),
        ({"cohort": 0}, "cohort is 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LayerwiseAvg(**options)


# --- the schedule, by itself ----------------------------------------------------------------------


def test_sizes_by_hand():
    header = 128
    assert layer_bytes(MODEL) == {
        "conv": 4 * 63 + 2 * header,
        "fc1": 4 * 2020 + 2 * header,
        "fc2": 4 * 200 + header,
    }


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, {"b"}), (0.6, {"b"}), (0.61, {"b", "a"}), (0.95, {"a", "b", "c"}), (1, {*"abc"})],
)
def test_largest_layers_by_hand(share, expected):
    assert largest_layers({"a": 30, "b": 60, "c": 10}, share) == expected


@given(sizes=st.dictionaries(st.text(max_size=2), st.integers(1, 100), min_size=1), share=st.floats(0.01, 1))
def test_the_largest_layers_hold_the_share_and_no_fewer_would(sizes, share):
    chosen = largest_layers(sizes, share)
    held = sum(sizes[layer] for layer in chosen)
    assert held >= share * sum(sizes.values())
    assert held - min(sizes[layer] for layer in chosen) < share * sum(sizes.values())
    assert all(sizes[a] >= sizes[b] for a in chosen for b in sizes.keys() - chosen)


@given(
    sizes=st.dictionaries(st.text(max_size=2), st.integers(1, 100), min_size=1),
    interval=st.integers(1, 5),
    share=st.floats(0.01, 1),
)
def test_every_layer_is_due_once_in_its_interval_and_something_always(sizes, interval, share):
    intervals = intervals_by_size(sizes, interval, share)
    due = [due_layers(intervals, server_round) for server_round in range(1, 3 * interval + 1)]
    assert due[0] == tuple(sizes)
    assert all(due)
    for layer, every in intervals.items():
        assert sum(layer in layers for layers in due) == 3 * interval // every
