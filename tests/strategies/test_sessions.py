"""What clients keep outlives a start: a second one in the same Flower run is not taken for the first."""

import numpy as np
import pytest
import torch
from apps.cycles import START, STRATEGIES, rounds_of
from apps.cycling import Clients, same
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from hypothesis import given
from hypothesis import strategies as st

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.layers import decode_record
from fedeff.core.state import StateStore
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.partial import PartialAvg
from fedeff.strategies.sessions import cycle_name, new_session

TRAINING = LocalTraining(steps=2, batch_size=4, learning_rate=0.1)


def new_model(seed=0):
    return build("mlp", classes=4, input_shape=(1, 4, 4), seed=seed)


def data(partition, partitions):
    rng = np.random.default_rng(partition)
    return ClientData(rng.random((8, 1, 4, 4), np.float32), rng.integers(0, 4, 8))


def started(*starts):
    """The model after the last of some starts (strategy, first model, rounds) in one Flower run."""
    torch.set_num_threads(1)
    server, models, states = ServerApp(), [], StateStore()

    @server.main()
    def main(grid, context):
        for strategy, seed, rounds in starts:
            first = ArrayRecord(new_model(seed).state_dict())
            models.append(strategy.start(grid, first, num_rounds=rounds).arrays)
            assert strategy.need_full == ()

    app = client_app(new_model, data, TRAINING, seed=1, vectorise="never")
    run_simulation(server, app, 4, engine="inline", state_dir=states)
    assert len(states) == 4
    states.close()
    return decode_record(models[-1])


PAIRS = {
    "one strategy again": lambda: (same_one := FedLAMA(phi=1), same_one),
    "another one": lambda: (PartialAvg(groups=2), FedLAMA(phi=2)),
    "overlapped": lambda: (FedLAMA(phi=2), PartialAvg(groups=2, sweeps=2, overlap=True)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_second_start_is_what_it_is_alone(pair, rounds):
    first, second = pair()
    found = started((first, 0, 1), (second, 5, rounds))
    _, alone = pair()
    expected = started((alone, 5, rounds))
    assert all(np.array_equal(found[key], values) for key, values in expected.items())


@pytest.mark.parametrize("name", STRATEGIES)
def test_starts_name_their_cycles_apart_and_weigh_alike(make_grid, name):
    strategy, names, models = STRATEGIES[name](), set(), []
    for _ in range(3):
        grid = make_grid(Clients(), 4)
        models.append(STRATEGIES[name]().start(grid, START, num_rounds=3).arrays)
        strategy.start(make_grid(Clients(), 4), START, num_rounds=1)
        cycles = {one.content["config"]["cycle"] for messages in grid.sent for one in messages}
        assert cycles.isdisjoint(names)
        names |= cycles
    assert same(models[0], models[1])
    assert same(models[0], models[2])


def test_a_checkpoint_keeps_the_name_of_the_start(make_grid):
    strategy = PartialAvg(groups=4)
    strategy.start(make_grid(Clients(), 3), START, num_rounds=2)
    other = PartialAvg(groups=4)
    other.restore(strategy.state())
    assert other.session == strategy.session > 0


def test_rounds_that_are_played_without_a_start_have_the_same_names_every_time(make_grid):
    """So that a run that is resumed, and one that is repeated, leave the same bytes."""
    seen = [rounds_of(PartialAvg(groups=2), make_grid(Clients(), 3), 3) for _ in range(2)]
    assert [[one.config()["cycle"] for one in played] for played in seen] == [[1, 1, 3]] * 2


@given(session=st.integers(0, 2**30 - 1), server_round=st.integers(1, 2**32 - 1))
def test_a_name_tells_its_start_and_round_and_fits_flower_s_integers(session, server_round):
    name = cycle_name(session, server_round)
    assert divmod(name, 2**32) == (session, server_round)
    assert 0 < name < 2**63


def test_no_two_starts_share_a_number():
    assert len({new_session() for _ in range(100)} - {0}) == 100
