"""Cycles: who is sent what, and what FedAvg is a case of."""

import numpy as np
import pytest
from apps.cycles import LAYERS, START, STRATEGIES, Halves, Tagged, rounds_of
from apps.cycling import SHAPES, Clients, average, close, model, play, same, trained

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.lists import NO_PART
from fedeff.strategies.cycles import CycleAvg, parts_layout
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.membership import Cycle
from fedeff.strategies.partial import PartialAvg

# --- what FedAvg is a case of ---------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_cycles_of_one_round_are_fedavg_bit_for_bit(make_grid, fold, replies, dtype):
    options = {"cohort": 5, "seed": 3, "fold": fold}
    seen = rounds_of(CycleAvg(**options), make_grid(Clients(), 9, replies), 4, model(dtype))
    expected = rounds_of(Tagged(**options), make_grid(Clients(), 9, replies), 4, model(dtype))
    assert [one.partitions for one in seen] == [one.partitions for one in expected]
    for one, two in zip(seen, expected, strict=True):
        assert same(one.model, two.model)
        assert one.metrics == two.metrics
        assert one.synchronised == LAYERS
        tags = ("cycle", "cycle-round", "layer-versions")
        assert {key: v for key, v in one.config().items() if key not in tags} == {
            key: v for key, v in two.config().items() if key not in tags
        }


def test_a_cohort_stays_for_a_cycle_and_is_drawn_as_fedavg_s_in_its_first_round(make_grid):
    grid = make_grid(Clients(), 20)
    seen = [one.partitions for one in rounds_of(Halves(cohort=6, seed=2), grid, 6)]
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]
    drawn = [one.partitions for one in rounds_of(Tagged(cohort=6, seed=2), make_grid(Clients(), 20), 4)]
    assert [seen[0], seen[3]] == [drawn[0], drawn[3]]


# --- messages -------------------------------------------------------------------------------------


def test_messages_carry_what_is_lacking_tags_versions_and_what_is_due(make_grid):
    strategy = Halves(keep_optimizer=True, train_config={"local-steps": 2})
    seen = rounds_of(strategy, make_grid(Clients(), 4), 4)
    assert [list(one.messages[0].content["arrays"]) for one in seen] == [
        list(SHAPES),
        ["conv.weight", "conv.bias"],
        [],
        list(SHAPES),
    ]
    shared = {"local-steps": 2, "keep-optimizer": True}
    assert [dict(one.config()) for one in seen] == [
        {
            **shared,
            "server-round": 1,
            "cycle": 1,
            "cycle-round": 0,
            "layers-due": ["conv.weight", "conv.bias"],
            "layer-versions": [0, 0, 0, 0],
        },
        {
            **shared,
            "server-round": 2,
            "cycle": 1,
            "cycle-round": 1,
            "layers-due": [NO_PART],
            "layer-versions": [1, 0, 0, 0],
        },
        {**shared, "server-round": 3, "cycle": 1, "cycle-round": 2, "layer-versions": [1, 0, 0, 0]},
        {
            **shared,
            "server-round": 4,
            "cycle": 4,
            "cycle-round": 0,
            "layers-due": ["conv.weight", "conv.bias"],
            "layer-versions": [3, 3, 3, 3],
        },
    ]
    assert [one.synchronised for one in seen] == [("conv",), (), LAYERS, ("conv",)]


def test_members_of_a_kind_share_one_content(make_grid):
    clients = Clients({(1, 2): "forget", (3, 2): "forget"})
    seen = rounds_of(Halves(), make_grid(clients, 5), 3)
    assert [len({id(one.content) for one in played.messages}) for played in seen] == [1, 1, 2]
    full = [len(one.content["arrays"]) == len(SHAPES) for one in seen[2].messages]
    assert full == [False, True, False, True, False]


def test_clients_go_on_from_their_own_layers_and_the_server_s_means(make_grid):
    clients = Clients()
    seen = rounds_of(Halves(), make_grid(clients, 4), 3)
    for partition in range(4):
        second = clients.began[partition, 2]
        for key in SHAPES:
            ours = seen[0].arrays if key.startswith("conv") else clients.ended[partition, 1]
            assert np.array_equal(second[key], ours[key])
        assert all(
            np.array_equal(clients.began[partition, 3][k], clients.ended[partition, 2][k]) for k in SHAPES
        )


def test_what_was_not_due_keeps_its_bytes_and_its_array(make_grid):
    (one,) = rounds_of(Halves(), make_grid(Clients(), 4), 1)
    assert list(one.model) == list(START)
    assert all(one.model[key] is START[key] for key in SHAPES if not key.startswith("conv"))
    assert not any(one.model[key].data == START[key].data for key in SHAPES if key.startswith("conv"))


def test_a_round_in_which_nothing_is_due_has_metrics_alone(make_grid):
    seen = rounds_of(Halves(), make_grid(Clients(), 4), 2)
    assert same(seen[1].model, seen[0].model)
    assert seen[1].metrics == pytest.approx({"loss": (0 + 2 + 6 + 12) / 10})


# --- the end of a run -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("rounds", [1, 2, 4, 5, 7])
def test_a_run_ends_with_the_mean_of_every_layer_wherever_it_ends_in_a_cycle(make_grid, name, rounds):
    strategy, clients = STRATEGIES[name](), Clients()
    grid = make_grid(clients, 4)
    result = strategy.start(grid, START, num_rounds=rounds)
    assert strategy.synchronised == LAYERS
    assert strategy.cycle_ended
    if name != "diloco":  # whose server steps beyond the mean
        last = {partition: clients.ended[partition, rounds] for partition in range(4)}
        close(decode_record(result.arrays), average(last, SHAPES))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_is_as_any_longer_one_but_for_its_last_round(make_grid, name):
    seen = {}
    for rounds in (4, 9):
        grid = make_grid(Clients(), 4)
        STRATEGIES[name]().start(grid, START, num_rounds=rounds)
        trained = [messages for messages in grid.sent if messages]
        seen[rounds] = [[dict(one.content["config"]) for one in messages] for messages in trained]
        for messages in seen[rounds]:
            for config in messages:
                del config["cycle"]  # names the start, too
    assert seen[4][:3] == seen[9][:3]


def test_fragments_that_never_travel_together_do_not_at_the_end_either(make_grid):
    strategy = DiLoCo(fragments=4, close_cycles=False)
    strategy.start(make_grid(Clients(), 3), START, num_rounds=2)
    assert len(strategy.synchronised) == 1


def test_a_run_that_goes_on_after_its_end_goes_on_with_its_clients(make_grid):
    """A round longer than planned: whoever was in step still is, with and without overlap."""
    for options in ({}, {"sweeps": 2, "overlap": True}):
        strategy, clients = PartialAvg(groups=3, **options), Clients()
        grid = make_grid(clients, 4)
        strategy.last_round = 2
        end = rounds_of(strategy, grid, 2)[-1]
        strategy.last_round = None
        later = list(play(strategy, grid, end.model, 6, first=3))
        assert clients.need_full == []
        assert [one.need_full for one in later] == [0] * 4


# --- pieces ---------------------------------------------------------------------------------------


def test_a_cycle_by_hand():
    cycle = Cycle.begin(5, [10, 20, 30, 40])
    after = cycle.after(in_step=[10, 30], astray=[40])
    assert after == Cycle(5, 1, {10: 0, 30: 0, 40: 1})
    assert (after.server_round, after.after([10, 40], [30])) == (6, Cycle(5, 2, {10: 0, 30: 2, 40: 1}))
    assert after.among([40, 99]) == Cycle(5, 1, {40: 1})


def test_the_layout_of_parts_by_hand():
    layout = parts_layout(START, ("fc1.weight[2:5]", "scale"))
    assert [(spec.key, spec.shape, spec.dtype.str) for spec in layout] == [
        ("fc1.weight[2:5]", (3, 7), "<f8"),
        ("scale", (), "<f8"),
    ]
    with pytest.raises(ConfigError, match=r"did you mean 'fc1\.weight'"):
        parts_layout(START, ("fc1.wieght",))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="rounds_per_cycle is 0"):
        CycleAvg(rounds_per_cycle=0)


def test_the_naive_client_moves():
    weights = decode_record(START)
    assert not any(np.array_equal(weights[key], new) for key, new in trained(weights, 0, 1).items())
    assert list(encode_record(weights)) == list(SHAPES)
