"""Adaptive update frequency: decisions and rounds by hand, and against a naive run."""

import numpy as np
import pytest
from apps.gathering import CONV, FC, MODEL, Members, configs, naive, noisy, one_round, run, same
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.lists import NO_PART
from fedeff.strategies import FedAvg
from fedeff.strategies.update_frequency import AdaptiveUpdateSGD, due_next, stepped

# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agreement", "gathered", "expected"),
    [(1.0, 0, False), (0.9, 2, False), (0.9, 3, True), (0.89, 0, True), (-1.0, 3, True), (1.0, 7, True)],
)
def test_decisions_by_hand(agreement, gathered, expected):
    due = due_next({"a": agreement, "b": 1.0}, {"b": 0, "a": gathered}, theta=0.9, c_max=4)
    assert due == (("a",) if expected else ())


@given(
    agreements=st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    theta=st.floats(-1, 1),
    c_max=st.integers(1, 6),
)
def test_no_more_than_c_max_are_gathered_and_disagreement_is_sent_next(agreements, theta, c_max):
    gathered, due = 0, bool(due_next({"a": 1.0}, {"a": 0}, theta=theta, c_max=c_max))
    for agreement in agreements:
        gathered += 1
        assert gathered <= c_max
        gathered = 0 if due else gathered
        due = bool(due_next({"a": agreement}, {"a": gathered}, theta=theta, c_max=c_max))
        assert due or agreement >= theta


def test_steps_by_hand():
    assert stepped(np.array([1.0, 2.0], np.float32), np.array([4.0, -4.0]), 0.25).tolist() == [0.0, 3.0]
    assert stepped(np.array([1.0], np.float32), np.array([1.0]), 0.5).dtype == np.float32
    assert stepped(np.array([7]), np.array([1]), 0.5).tolist() == [7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c_max": 0}, "c_max is 0"),
        ({"cycle_rounds": 0}, "cycle_rounds is 0"),
        ({"theta": 1.5}, "theta is 1.5"),
        ({"theta": float("nan")}, "theta is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"train_config": {"procedure": "train"}}, "train_config sets procedure"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdaptiveUpdateSGD(**settings)


# --- rounds by hand and against a naive run -------------------------------------------------------


def test_a_layer_that_agrees_waits_and_one_that_turns_is_sent_one_round_later(make_reply, make_grid):
    # "conv" points one way always; "fc" turns round in rounds 3 and 4.
    def gradient(partition, weights, server_round):
        turn = -1.0 if server_round in (3, 4) else 1.0
        return {"conv.weight": np.ones((2, 3)), "conv.bias": np.ones(2), "fc.weight": np.full((3, 2), turn)}

    grid = make_grid(Members(make_reply, gradient), 3)
    strategy = AdaptiveUpdateSGD(learning_rate=0.5, c_max=4, cycle_rounds=9)
    models, synchronised = [MODEL], []
    for server_round in range(1, 10):
        models.append(one_round(strategy, grid, server_round, models[-1]))
        synchronised.append(strategy.synchronised)
    # conv goes up after four gradients. fc turns in round 3, is sent in round 4 (1 + 1 - 1 - 1 = 0), had
    # turned against the rest again then, and so is sent in round 5, too. Round 9 ends the cycle.
    both = ("conv", "fc")
    assert synchronised == [(), (), (), both, ("fc",), (), (), ("conv",), both]
    dues = [one.get("layers-due") for one in configs(grid)]
    nothing = [NO_PART]
    assert dues == [nothing, nothing, nothing, None, FC, nothing, nothing, CONV, None]
    fc, conv = ([decode_record(model)[key].flat[0] for model in models] for key in (FC[0], CONV[0]))
    assert fc == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0]
    assert conv == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0, -0.5]


def test_a_turn_in_one_layer_sends_that_layer_alone(make_reply, make_grid):
    def gradient(partition, weights, server_round):
        turn = -1.0 if server_round == 2 else 1.0
        return {"conv.weight": np.ones((2, 3)), "conv.bias": np.ones(2), "fc.weight": np.full((3, 2), turn)}

    grid = make_grid(Members(make_reply, gradient), 2)
    strategy = AdaptiveUpdateSGD(learning_rate=0.75, c_max=9, cycle_rounds=9)
    model = run(strategy, grid, range(1, 5))
    assert [one.get("layers-due") for one in configs(grid)] == [[NO_PART], [NO_PART], FC, [NO_PART]]
    # Down: the whole model to begin with, then what has stepped.
    assert [list(messages[0].content["arrays"]) for messages in grid.sent] == [list(MODEL), [], [], FC]
    assert decode_record(model)["fc.weight"].flat[0] == pytest.approx(1 - 0.75 * (1 - 1 + 1) / 3)
    assert decode_record(model)["fc.steps"] == 7


@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize(("c_max", "cycle_rounds"), [(1, 4), (3, 5), (4, 20), (4, 1)])
def test_it_is_the_naive_run(make_reply, make_grid, replies, fold, c_max, cycle_rounds):
    grid = make_grid(Members(make_reply, noisy), 5, replies)
    rule = {"learning_rate": 0.1, "theta": 0.9, "c_max": c_max, "cycle_rounds": cycle_rounds}
    strategy = AdaptiveUpdateSGD(**rule, fold=fold)
    model = decode_record(run(strategy, grid, range(1, 13)))
    expected = naive(noisy, range(5), range(1, 13), **rule)
    assert not np.allclose(expected["conv.weight"], decode_record(MODEL)["conv.weight"])
    for key, values in expected.items():
        np.testing.assert_allclose(model[key], values, rtol=1e-10, atol=1e-12)
    if c_max > 1 and cycle_rounds > 1:
        dues = [tuple(one.get("layers-due", list(MODEL))) for one in configs(grid)]
        assert len(set(dues)) > 1


def test_the_clients_hold_the_server_s_model(make_reply, make_grid):
    members = Members(make_reply, noisy)
    strategy, grid, model = (
        AdaptiveUpdateSGD(cycle_rounds=30, learning_rate=0.1),
        make_grid(members, 4),
        MODEL,
    )
    for server_round in range(1, 12):
        before, model = model, one_round(strategy, grid, server_round, model)
        for _, weights, _ in members.kept.values():
            assert same(encode_record({key: weights[key] for key in MODEL}), before)


@pytest.mark.parametrize(("dtype", "precision"), [("f4", 1e-6), ("f8", 1e-12)])
def test_one_gradient_at_a_time_is_fedavg_with_one_local_step(make_reply, make_grid, dtype, precision):
    start = encode_record({key: values.astype(dtype) for key, values in decode_record(MODEL).items()})

    def gradient(partition, weights, server_round):
        return {key: (values - partition).astype(dtype) for key, values in weights.items()}

    def one_step(partition, message):
        weights = decode_record(message.content["arrays"])
        step = gradient(partition, weights, 0)
        moved = {key: (values - 0.1 * step[key]).astype(dtype) for key, values in weights.items()}
        return make_reply(partition, moved, partition + 1, node=message.metadata.dst_node_id)

    strategy = AdaptiveUpdateSGD(learning_rate=0.1, c_max=1, cycle_rounds=1, cohort=3, seed=5)
    model = run(strategy, make_grid(Members(make_reply, gradient), 7), range(1, 6), start)
    expected = run(FedAvg(cohort=3, seed=5), make_grid(one_step, 7), range(1, 6), start)
    for key, values in decode_record(expected).items():
        np.testing.assert_allclose(decode_record(model)[key], values, rtol=precision, atol=precision)
