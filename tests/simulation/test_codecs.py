"""Runs with codecs come to the same bits on every engine, under strategies of ours and of Flower's."""

import numpy as np
import pytest
from apps import arithmetic
from apps.coded_players import CLIENTS, OURS, PLAYERS, ROUNDS, clients, played
from apps.own_process import run_module
from flwr.serverapp import ServerApp

from fedeff.core.layers import decode_record, payload_bytes
from fedeff.simulation import run_simulation

Arrays = dict[str, np.ndarray]


def on_ours(players, **options) -> dict[str, Arrays]:
    found: dict[str, Arrays] = {}
    server = ServerApp()

    @server.main()
    def main(grid, context):
        found.update({player: played(player, grid, context) for player in players})

    run_simulation(server, clients(), CLIENTS, seed=3, **options)
    return found


@pytest.fixture(scope="module")
def inline() -> dict[str, Arrays]:
    return on_ours(PLAYERS, engine="inline")


def assert_same_bits(one: Arrays, two: Arrays) -> None:
    assert one.keys() == two.keys()
    assert [key for key in one if one[key].tobytes() != two[key].tobytes()] == []


def test_two_actors_come_to_the_same_bits(cluster, inline):
    on_ray = on_ours(PLAYERS, engine="ray", num_actors=2, block_size=2)
    for player in PLAYERS:
        assert_same_bits(inline[player], on_ray[player])


@pytest.mark.slow
def test_flowers_own_engine_comes_to_the_same_bits(inline, tmp_path):
    run_module("apps.coded_players", str(tmp_path / "out.npz"), home=tmp_path, timeout_s=600)
    theirs: dict[str, Arrays] = {player: {} for player in PLAYERS}
    for name, values in np.load(tmp_path / "out.npz").items():
        player, _, key = name.partition("/")
        theirs[player][key] = values
    for player in PLAYERS:
        assert_same_bits(inline[player], theirs[player])


@pytest.mark.parametrize("player", OURS)
def test_nothing_is_refused_and_little_is_sent(inline, player):
    down, up, refused = inline[player]["sizes"].T
    whole = sum(values.nbytes for key, values in inline[player].items() if key != "sizes") * CLIENTS
    assert not refused.any()
    assert up[0] < whole / 3
    assert (down[1:] < whole / 3).all() == (player == "fedavg both ways")


def test_hand_computed_fedavg_with_differences_that_ternary_codes_tell_exactly(inline):
    """Every client moves all its values by the same: `(p + 1) / 8`, weighted by `p + 1`."""
    weights = np.arange(1, CLIENTS + 1)
    step = float((weights * weights / 8).sum() / weights.sum())
    start = decode_record(arithmetic.start_arrays())
    for key, values in start.items():
        np.testing.assert_allclose(inline["flwr.FedAvg"][key], values + ROUNDS * step, rtol=1e-5)


def test_stock_strategies_bytes_are_those_of_blobs(inline):
    down, up = inline["flwr.FedMedian"]["sizes"].T
    whole = payload_bytes(arithmetic.start_arrays()) * CLIENTS
    assert up.shape == (ROUNDS,)
    assert (up < whole / 12).all()
    assert ((down > whole - 1000) & (down < whole)).all()
