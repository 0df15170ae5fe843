"""FedLUAR: scores and draws by hand, recycled updates, bytes, faults, and FedAvg with none recycled."""

import itertools

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import ServerApp
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.checkpoints import Standing, read_standing, write_standing
from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.layers import decode_record, encode_record, group_layers, payload_bytes, subset
from fedeff.grids import MeteredGrid
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg
from fedeff.strategies.fedluar import (
    FedLUAR,
    change_of,
    draw_recycled,
    least_score,
    recyclable_layers,
    relative_change,
)

MODEL = encode_record(
    {
        "conv.weight": np.ones((3, 2, 2), np.float32),
        "norm.weight": np.ones(3, np.float32),
        "fc1.weight": np.ones((4, 3), np.float32),
        "conv.bias": np.ones(3, np.float32),
        "conv.count": np.array(5),
        "fc1.bias": np.ones(4, np.float32),
        "fc2.weight": np.ones((2, 4), np.float32),
    }
)
LAYERS = group_layers(MODEL)


@pytest.fixture
def client(make_reply):
    """Adds a step of its own to every array; sends back those that are due."""

    def answer(partition, message):
        config = message.content["config"]
        arrays = decode_record(message.content["arrays"])
        rng = np.random.default_rng([partition, config["server-round"]])
        new = {
            key: np.asarray(values + rng.normal(size=values.shape), values.dtype)
            for key, values in arrays.items()
        }
        due = config.get("layers-due", list(new))
        return make_reply(
            partition, {key: new[key] for key in due}, partition + 1, node=message.metadata.dst_node_id
        )

    return answer


def one_round(strategy, grid, server_round, model):
    messages = strategy.configure_train(server_round, model, ConfigRecord(), grid)
    return strategy.aggregate_train(server_round, grid.send_and_receive(messages))[0]


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


def recycled_in(messages) -> set[str]:
    due = next(iter(messages)).content["config"].get("layers-due", list(MODEL))
    return set(LAYERS) - set(group_layers(due))


# --- scores and draws -----------------------------------------------------------------------------


def test_scores_by_hand():
    before = {"fc.weight": np.array([[3.0, 0.0]]), "fc.bias": np.array([4.0]), "fc.steps": np.array([9])}
    updates = {"fc.weight": np.array([[0.0, 2.0]]), "fc.bias": np.array([-1.0]), "fc.steps": np.array([5])}
    assert relative_change(updates, before, list(before)) == pytest.approx(np.sqrt(5) / 5)
    assert relative_change({"b": np.zeros(2)}, {"b": np.ones(2)}, ["b"]) == 0
    assert relative_change({"b": np.ones(2)}, {"b": np.zeros(2)}, ["b"]) == np.inf
    assert relative_change({"b": np.zeros(2)}, {"b": np.zeros(2)}, ["b"]) == 0


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_a_score_does_not_depend_on_the_scale_of_a_layer(factor, seed):
    rng = np.random.default_rng(seed)
    before, updates = {"w": rng.normal(size=7)}, {"w": rng.normal(size=7)}
    scaled = relative_change({"w": factor * updates["w"]}, {"w": factor * before["w"]}, ["w"])
    assert scaled == pytest.approx(relative_change(updates, before, ["w"]), rel=1e-9)


def test_only_layers_with_an_array_of_two_axes_may_be_recycled():
    assert recyclable_layers(decode_record(MODEL)) == ("conv", "fc1", "fc2")


def probabilities(scores: dict[str, float], count: int) -> dict[frozenset, float]:
    """Of each set of layers, drawn one after another with probability proportional to 1/score."""
    weights, found = {layer: 1 / score for layer, score in scores.items()}, {}
    for order in itertools.permutations(scores, count):
        left, chance = sum(weights.values()), 1.0
        for layer in order:
            chance *= weights[layer] / left
            left -= weights[layer]
        found[frozenset(order)] = found.get(frozenset(order), 0.0) + chance
    return found


@pytest.mark.parametrize("count", [1, 2])
def test_draws_are_proportional_to_the_inverse_of_the_scores(count):
    scores, draws = {"a": 1.0, "b": 2.0, "c": 4.0}, 20_000
    rng = np.random.default_rng(5)
    seen = [frozenset(draw_recycled(scores, count, rng)) for _ in range(draws)]
    expected = probabilities(scores, count)
    assert sum(expected.values()) == pytest.approx(1)
    if count == 1:
        assert expected[frozenset("a")] == pytest.approx(4 / 7)
    for chosen, chance in expected.items():
        deviation = np.sqrt(chance * (1 - chance) / draws)
        assert abs(seen.count(chosen) / draws - chance) < 4 * deviation


def test_layers_that_moved_from_zero_are_recycled_after_all_others():
    scores = {"a": np.inf, "b": 1.0, "c": 0.0, "d": 5.0}
    for seed in range(50):
        assert draw_recycled(scores, 3, np.random.default_rng(seed)) == ("b", "c", "d")


@pytest.mark.parametrize(
    ("scores", "least"),
    [([0.0, 1.0, 3.0, 5.0], 0.3), ([0.0, 2.0, np.inf], 0.2), ([0.0, 0.0], 1.0), ([np.inf], 1.0), ([], 1.0)],
)
def test_the_least_score_by_hand(scores, least):
    assert least_score(scores) == pytest.approx(least)


@pytest.mark.parametrize("score", [0.0, 1e-300])
def test_a_layer_that_did_not_move_is_drawn_as_if_it_had_a_little(score):
    scores, draws, rng = {"a": score, "b": 0.5, "c": 1.0, "d": 2.0}, 5_000, np.random.default_rng(1)
    seen = [frozenset(draw_recycled(scores, 2, rng)) for _ in range(draws)]
    expected = probabilities({**scores, "a": least_score(scores.values())}, 2)
    for chosen, chance in expected.items():
        deviation = np.sqrt(chance * (1 - chance) / draws)
        assert abs(seen.count(chosen) / draws - chance) < 4 * deviation
    assert sum("a" not in chosen for chosen in seen) > 25


@given(count=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_a_draw_is_of_so_many_different_layers_in_order(count, seed):
    scores = {name: 0.1 + position for position, name in enumerate("vwxyz")}
    drawn = draw_recycled(scores, count, np.random.default_rng(seed))
    assert len(set(drawn)) == count
    assert list(drawn) == sorted(drawn)
    assert drawn == draw_recycled(scores, count, np.random.default_rng(seed))


def test_booleans_do_not_change():
    assert change_of(np.array([True, False]), np.array([False, False])).tolist() == [False, False]
    assert change_of(np.array([3, 5]), np.array([5, 4])).tolist() == [2, -1]


# --- rounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("fold", ["server", "workers"])
def test_with_none_recycled_it_is_fedavg_bit_for_bit(client, make_grid, replies, fold):
    model = expected = MODEL
    strategy, fedavg = (kind(cohort=5, seed=2, fold=fold) for kind in (zero_recycled, FedAvg))
    for server_round in (1, 2, 3):
        grids = [make_grid(client, 8, replies) for _ in range(2)]
        expected = one_round(fedavg, grids[0], server_round, expected)
        model = one_round(strategy, grids[1], server_round, model)
        assert [dict(m.content["config"]) for m in grids[1].sent[0]] == [
            dict(m.content["config"]) for m in grids[0].sent[0]
        ]
    assert same(model, expected)
    assert strategy.synchronised == ("conv", "norm", "fc1", "fc2")


def zero_recycled(**options):
    return FedLUAR(recycled_layers=0, **options)


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
def test_recycled_layers_move_as_they_last_did_and_the_others_are_averaged(client, make_grid, fold, replies):
    strategy, grid, models = FedLUAR(recycled_layers=2, fold=fold), make_grid(client, 6, replies), [MODEL]
    last: dict[str, np.ndarray] = {}
    ever_recycled = set()
    for server_round in range(1, 9):
        models.append(one_round(strategy, grid, server_round, models[-1]))
        before, after = (decode_record(model) for model in models[-2:])
        full = one_round(FedAvg(fold=fold), make_grid(client, 6, replies), server_round, models[-2])
        recycled = recycled_in(grid.sent[-1])
        assert len(recycled) == (2 if server_round > 1 else 0)
        assert set(strategy.synchronised) == set(LAYERS) - recycled
        for layer, keys in LAYERS.items():
            for key in keys:
                if layer in recycled:
                    np.testing.assert_array_equal(after[key], before[key] + last[key])
                else:
                    assert models[-1][key].data == full[key].data
                    last[key] = after[key] - before[key]
        ever_recycled |= recycled
        assert list(models[-1]) == list(MODEL)
    assert ever_recycled == {"conv", "fc1", "fc2"}
    assert strategy.refused == ()


def test_the_draw_follows_the_scores_of_the_last_updates(make_grid, make_reply):
    def client(partition, message):
        arrays = decode_record(message.content["arrays"])
        step = {"conv": 0.0, "fc1": 1e-4, "fc2": 1e3, "norm": 1.0}
        new = {
            key: np.asarray(values + step[key.split(".")[0]], values.dtype) for key, values in arrays.items()
        }
        due = message.content["config"].get("layers-due", list(new))
        return make_reply(partition, {key: new[key] for key in due})

    strategy, grid, model = FedLUAR(recycled_layers=2), make_grid(client, 3), MODEL
    for server_round in range(1, 6):
        model = one_round(strategy, grid, server_round, model)
        if server_round > 1:
            assert recycled_in(grid.sent[-1]) == {"conv", "fc1"}


def test_a_layer_that_stood_still_once_is_sent_again(make_grid, make_reply):
    def client(partition, message):
        arrays = decode_record(message.content["arrays"])
        still = "conv" if message.content["config"]["server-round"] == 1 else "none"
        new = {
            key: np.asarray(values + (not key.startswith(still)), values.dtype)
            for key, values in arrays.items()
        }
        due = message.content["config"].get("layers-due", list(new))
        return make_reply(partition, {key: new[key] for key in due})

    strategy, grid, model = FedLUAR(recycled_layers=1), make_grid(client, 2), MODEL
    for server_round in range(1, 100):
        model = one_round(strategy, grid, server_round, model)
    recycled = [recycled_in(messages) for messages in grid.sent]
    again = recycled[1:].index(next(one for one in recycled[1:] if "conv" not in one))
    assert recycled[1 : 1 + again] == [{"conv"}] * again
    assert again > 3  # it is likely to be recycled all the same
    assert decode_record(model)["conv.bias"][0] > 50


def test_by_default_half_of_the_layers_that_may_be_are_recycled(client, make_grid):
    strategy, grid, model = FedLUAR(), make_grid(client, 3), MODEL
    for server_round in (1, 2):
        model = one_round(strategy, grid, server_round, model)
    assert len(recycled_in(grid.sent[-1])) == 1


def test_draws_depend_on_seed_and_round_alone(client, make_grid):
    def run(seed, replies):
        strategy, grid, model = FedLUAR(recycled_layers=1, seed=seed), make_grid(client, 4, replies), MODEL
        for server_round in range(1, 9):
            model = one_round(strategy, grid, server_round, model)
        return [recycled_in(messages) for messages in grid.sent]

    assert run(1, "list") == run(1, "shuffled")
    assert run(1, "list") != run(2, "list")


def test_bytes_up_are_those_of_the_layers_due(client, make_grid):
    strategy, grid, model = FedLUAR(recycled_layers=2), make_grid(client, 3), MODEL
    model = one_round(strategy, grid, 1, model)
    messages = strategy.configure_train(2, model, ConfigRecord(), grid)
    due = next(iter(messages)).content["config"]["layers-due"]
    for reply in grid.send_and_receive(messages):
        assert payload_bytes(reply.content) == payload_bytes(subset(MODEL, due))
    assert payload_bytes(subset(MODEL, due)) < payload_bytes(MODEL)


# --- faults ---------------------------------------------------------------------------------------


def test_faults_are_left_out_and_counted(client, make_grid, make_reply, make_error):
    fired = []

    def faulty(partition, message):
        config, node = message.content["config"], message.metadata.dst_node_id
        if config["server-round"] == 1 or partition not in (1, 2, 3, 4):
            return client(partition, message)
        fired.append(partition)
        if partition == 1:
            return make_error(node, "no memory")
        if partition == 2:  # sends everything all the same
            return make_reply(2, message.content["arrays"], node=node)
        if partition == 3:
            due = {key: decode_record(MODEL)[key] * np.nan for key in config["layers-due"]}
            return make_reply(3, due, node=node)
        return None

    strategy, grid = FedLUAR(recycled_layers=1), make_grid(faulty, 7)
    model = one_round(strategy, grid, 1, MODEL)
    merged = one_round(strategy, grid, 2, model)
    alone = make_grid(lambda p, message: client(p, message) if p not in (1, 2, 3, 4) else None, 7)
    again = FedLUAR(recycled_layers=1)
    one_round(again, make_grid(client, 7), 1, MODEL)
    assert sorted(fired) == [1, 2, 3, 4]
    assert same(merged, one_round(again, alone, 2, model))
    assert [one.partition_id for one in strategy.refused] == [2, 3]
    assert len(strategy.failed) == 1


def test_where_all_are_lost_nothing_moves_and_nothing_is_forgotten(client, make_grid, make_error):
    strategy, grid = FedLUAR(recycled_layers=2), make_grid(client, 3)
    model = one_round(strategy, grid, 1, MODEL)
    before = strategy.state()
    lost = make_grid(lambda partition, message: make_error(message.metadata.dst_node_id, "gone"), 3)
    assert one_round(strategy, lost, 2, model) is None
    assert strategy.synchronised == ()
    assert all(np.array_equal(before[name], values) for name, values in strategy.state().items())
    assert one_round(strategy, grid, 3, model) is not None


def test_until_there_are_updates_all_layers_are_sent(client, make_grid, make_error):
    strategy = FedLUAR(recycled_layers=2)
    lost = make_grid(lambda partition, message: make_error(message.metadata.dst_node_id, "gone"), 3)
    for server_round in (1, 2):
        one_round(strategy, lost, server_round, MODEL)
        assert recycled_in(lost.sent[-1]) == set()


# --- settings, state ------------------------------------------------------------------------------


def test_impossible_settings_are_refused(client, make_grid):
    with pytest.raises(ConfigError, match="recycled_layers is -1"):
        FedLUAR(recycled_layers=-1)
    with pytest.raises(ConfigError, match=r"3 layers of this model may be recycled.*choose at most 2"):
        one_round(FedLUAR(recycled_layers=3), make_grid(client, 2), 1, MODEL)
    single = encode_record({"fc.weight": np.ones((2, 2), np.float32)})
    assert one_round(FedLUAR(), make_grid(client, 2), 1, single) is not None


def test_a_resumed_run_is_the_run_bit_for_bit(client, make_grid, tmp_path):
    whole, model = FedLUAR(recycled_layers=2, cohort=4), MODEL
    for server_round in range(1, 9):
        if server_round == 5:
            standing = Standing(server_round - 1, model, whole.state())
            kept = read_standing(write_standing(tmp_path, standing))
        model = one_round(whole, make_grid(client, 7), server_round, model)
    cut = FedLUAR(recycled_layers=2, cohort=4)
    cut.restore(kept.strategy_state)
    resumed = kept.model
    for server_round in range(5, 9):
        resumed = one_round(cut, make_grid(client, 7), server_round, resumed)
    assert same(resumed, model)
    assert all(np.array_equal(cut.state()[name], values) for name, values in whole.state().items())


def test_another_strategy_s_state_is_refused():
    with pytest.raises(ResumeError, match=r"holds strategy state \['momentum'\]"):
        FedLUAR().restore({"momentum": np.zeros(1), "score/fc": np.array(1.0)})


# --- the client of fedeff -------------------------------------------------------------------------


def data(partition: int, partitions: int) -> ClientData:
    rng = np.random.default_rng(partition)
    return ClientData(rng.random((20, 1, 6, 6), np.float32), rng.integers(0, 10, 20))


def test_with_the_client_of_fedeff_fewer_bytes_go_up():
    state = build("mlp", input_shape=(1, 6, 6)).state_dict()
    arrays = encode_record({key: values.numpy() for key, values in state.items()})
    app = client_app(lambda: build("mlp", input_shape=(1, 6, 6)), data, LocalTraining(batch_size=4))
    strategy, server, seen = FedLUAR(recycled_layers=1), ServerApp(), {}

    @server.main()
    def main(grid, context):
        metered = MeteredGrid(grid)
        seen["model"] = strategy.start(metered, arrays, num_rounds=4).arrays
        seen["up"] = [one.uplink_bytes for one in metered.exchanges]
        seen["down"] = [one.downlink_bytes for one in metered.exchanges]

    run_simulation(server, app, 4, engine="inline")
    whole = 4 * payload_bytes(arrays)
    layers = [4 * payload_bytes(subset(arrays, keys)) for keys in group_layers(arrays).values()]
    assert seen["down"] == [whole] * 4
    assert seen["up"][0] == whole
    assert all(up in layers for up in seen["up"][1:])
    assert strategy.refused == strategy.failed == ()
    assert not same(seen["model"], arrays)
