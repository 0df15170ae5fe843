"""A run with cycles that is cut goes on as it would have."""

import numpy as np
import pytest
from apps.cycles import LAYERS, STRATEGIES, Halves, rounds_of
from apps.cycling import Clients, model, play, same

from fedeff.core.errors import ResumeError
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.membership import Cycle

# --- a run that is cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("fold", ["server", "workers"])
def test_a_run_cut_after_any_round_and_restored_is_the_uncut_one_bit_for_bit(make_grid, name, fold):
    faults = {(1, 2): "forget", (3, 3): "reply", (2, 4): "malformed", (0, 5): "raise", (4, 7): "stale"}
    options = {"cohort": 5, "seed": 7, "fold": fold}
    whole = rounds_of(STRATEGIES[name](**options), make_grid(Clients(faults), 8, "streamed"), 9, model("f4"))
    for cut in range(1, 9):
        clients = Clients(faults)
        grid = make_grid(clients, 8, "streamed")
        strategy = STRATEGIES[name](**options)
        before = rounds_of(strategy, grid, cut, model("f4"))
        state = {key: np.array(values) for key, values in sorted(strategy.state().items())}
        assert all(isinstance(values, np.ndarray) for values in strategy.state().values())
        again = STRATEGIES[name](**options)
        again.restore(state)
        after = list(play(again, grid, before[-1].model, 9, cut + 1))
        for one, two in zip([*before, *after], whole, strict=True):
            assert same(one.model, two.model), (cut, one.server_round)
            assert one.partitions == two.partitions
            assert [_told(m) for m in one.messages] == [_told(m) for m in two.messages]
        uncut = STRATEGIES[name](**options)
        rounds_of(uncut, make_grid(Clients(faults), 8, "streamed"), 9, model("f4"))
        assert {k: v.tobytes() for k, v in again.state().items()} == {
            k: v.tobytes() for k, v in uncut.state().items()
        }


@pytest.mark.parametrize("name", STRATEGIES)
def test_so_it_is_where_the_run_ends_within_a_cycle(make_grid, name):
    """Whoever resumes a run knows its rounds, so the cut run ends its last cycle early, too."""

    def made():
        strategy = STRATEGIES[name](cohort=5, seed=7)
        strategy.last_round = 5
        return strategy

    whole = rounds_of(made(), make_grid(Clients(), 8), 5)
    for cut in range(1, 5):
        strategy, grid = made(), make_grid(Clients(), 8)
        before = rounds_of(strategy, grid, cut)
        again = made()
        again.restore(strategy.state())
        after = list(play(again, grid, before[-1].model, 5, cut + 1))
        assert all(same(one.model, two.model) for one, two in zip([*before, *after], whole, strict=True))
        assert after[-1].synchronised == LAYERS


def _told(message):
    content = message.content
    arrays = {
        key: (list(record), [a.data for a in record.values()])
        for key, record in content.array_records.items()
    }
    return dict(content["config"]), arrays


def test_a_fresh_strategy_has_no_state_and_takes_none_up(make_grid):
    strategy = Halves()
    assert strategy.state() == {}
    strategy.restore({})
    assert rounds_of(strategy, make_grid(Clients(), 3), 1)[0].config()["cycle-round"] == 0


def test_node_ids_of_64_bits_survive_a_checkpoint():
    cycle = Cycle(4, 1, {2**64 - 1: 0, 7: 1})
    assert Cycle.restored(cycle.state()) == cycle


@pytest.mark.parametrize("name", ["cycles", "fedlama", "diloco"])
def test_another_strategy_s_state_is_refused(make_grid, name):
    with pytest.raises(ResumeError, match="resume with the strategy that the run was started with"):
        STRATEGIES[name]().restore({"momentum": np.zeros(2)})


def test_more_state_than_a_strategy_has_is_refused(make_grid):
    strategy = FedLAMA()
    rounds_of(strategy, make_grid(Clients(), 3), 1)
    with pytest.raises(ResumeError, match="discrepancies, intervals"):
        Halves().restore(strategy.state())
