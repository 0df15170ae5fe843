"""Every strategy that has a name: the same bits inline, on Ray and on Flower's own engine."""

import numpy as np
import pytest
from apps.own_process import run_module
from apps.players import CLIENTS, STOCK, Played, clients, server_of, settings
from apps.variants import VARIANTS

from fedeff.app.client import training_of
from fedeff.app.server import strategy_of
from fedeff.simulation import run_simulation
from fedeff.strategies.asynchronous import AsynchronousAvg


def _asynchronous(variant: str) -> bool:
    return isinstance(strategy_of(settings(variant)), AsynchronousAvg)


ASYNCHRONOUS = [variant for variant in VARIANTS if _asynchronous(variant)]
SYNCHRONOUS = [variant for variant in VARIANTS if not _asynchronous(variant)]
PLAYERS = [STOCK, *SYNCHRONOUS, *ASYNCHRONOUS]  # those that leave messages under way are the last


def on_ours(**options: object) -> dict[str, Played]:
    found: dict[str, Played] = {}
    run_simulation(server_of(PLAYERS, found), clients(), CLIENTS, **options)
    return found


@pytest.fixture(scope="module")
def inline() -> dict[str, Played]:
    return on_ours(engine="inline")


@pytest.fixture(scope="module")
def ray(cluster: None) -> dict[str, Played]:
    return on_ours(engine="ray", num_actors=2)


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    home = tmp_path_factory.mktemp("flower")
    run_module("apps.players", str(home / "out.npz"), *PLAYERS, home=home, timeout_s=600)
    found: dict[str, Played] = {player: {} for player in PLAYERS}
    for name, values in np.load(home / "out.npz").items():
        player, _, key = name.partition("/")
        found[player][key] = values
    return found


def test_all_variants_have_the_same_clients():
    assert {training_of(settings(variant)) for variant in VARIANTS} == {training_of(settings(STOCK))}


@pytest.mark.parametrize("variant", SYNCHRONOUS)
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_a_strategy_comes_to_the_same_bits_and_bytes(inline, engine, variant, request):
    ours, theirs = inline[variant], request.getfixturevalue(engine)[variant]
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key].tobytes() != theirs[key].tobytes()] == []


@pytest.mark.parametrize("variant", ASYNCHRONOUS)
@pytest.mark.parametrize("engine", ["inline", "ray", "flower"])
def test_an_asynchronous_strategy_learns(engine, variant, request):
    played = request.getfixturevalue(engine)[variant]
    assert all(np.isfinite(values).all() for values in played.values())
    accuracy = played["accuracy by round"]
    assert accuracy[-1] > max(0.25, accuracy[0])  # of ten digits


def test_flowers_own_strategy_agrees_to_rounding(inline, flower):
    """Flower leaves open in which order it sums."""
    ours, theirs = inline[STOCK], flower[STOCK]
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        np.testing.assert_allclose(values, theirs[key], rtol=1e-4, atol=1e-6)
