"""Delayed averaging: FedAvg at no delay, a round by hand, what travels, and the value itself."""

import logging

import numpy as np
import pytest
from apps.delaying import check_invariant, kinds_of, plus
from apps.displacing import agree, play, start
from flwr.app import ConfigRecord

from fedeff.core.delays import VirtualClock
from fedeff.core.errors import ConfigError
from fedeff.core.layers import encode_record, payload_bytes
from fedeff.core.lists import NO_ROUND
from fedeff.grids import OverlapGrid
from fedeff.strategies import FedAvg
from fedeff.strategies.delayed import DelayedAvg
from fedeff.strategies.sessions import cycle_name

# --- no delay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [None, 4])
def test_without_delay_it_is_fedavg(cohort):
    delayed = play(DelayedAvg(delay=0, cohort=cohort, seed=3), 9, 5)
    plain = play(FedAvg(cohort=cohort, seed=3), 9, 5)
    for one, other in zip(delayed.models[2:], plain.models[2:], strict=True):
        agree(one, other)
    for one, other in zip(delayed.metrics[1:], plain.metrics[1:], strict=True):
        assert dict(one) == pytest.approx(dict(other), rel=1e-12)


def test_integer_arrays_come_out_as_fedavg_s():
    model = {**start(), "norm.count": np.arange(40, 44)}
    delayed, plain = (play(strategy, 5, 3, model=model) for strategy in (DelayedAvg(delay=0), FedAvg()))
    assert delayed.models[-1]["norm.count"].dtype == np.int64
    np.testing.assert_array_equal(delayed.models[-1]["norm.count"], plain.models[-1]["norm.count"])


def test_a_round_by_hand():
    """One client moves by its displacement, which arrives one round late."""
    played = play(DelayedAvg(delay=1), 1, 4)
    displaced = [played.book.displaced[0, server_round] for server_round in (1, 2)]
    agree(played.models[2], played.models[1])
    agree(played.models[3], plus(start(), displaced[0]))
    agree(played.models[4], plus(start(), *displaced))
    agree(played.book.began[0, 3], plus(start(), *displaced))
    assert [metrics is None for metrics in played.metrics[1:]] == [True, False, False, False]


# --- what travels ---------------------------------------------------------------------------------


def test_only_the_first_message_of_an_epoch_carries_the_model():
    played = play(DelayedAvg(delay=2), 3, 5)
    assert [kinds_of(played, server_round)[0] for server_round in range(1, 6)] == [
        (0, "model"),
        (1, "nothing"),
        (2, "nothing"),
        (3, "correction"),
        (4, "correction"),
    ]
    assert [list(m.content["config"].get("corrects", [])) for m, *_ in played.grid.pushed] == [
        [],
        [],
        [],
        [0],
        [1],
    ]


def test_a_message_says_what_it_asks_for():
    played = play(DelayedAvg(delay=1, train_config={"local-steps": 7}), 2, 2)
    config = dict(played.grid.pushed[1][0].content["config"])
    assert config == {
        "local-steps": 7,
        "server-round": 2,
        "reply-with": "displacement",
        "keep-sent": True,
        "cycle": 1,
        "cycle-round": 1,
    }
    assert not play(DelayedAvg(delay=0), 2, 1).grid.pushed[0][0].content["config"]["keep-sent"]


def test_a_client_that_was_not_drawn_gets_the_means_it_is_owed_in_one_correction():
    """With a delay of 3, a client drawn in rounds t and t + 2 is owed two means at once."""
    strategy = DelayedAvg(delay=3, cohort=3, seed=1)
    played = play(strategy, 4, 12)
    check_invariant(played, 3)
    gaps = 0
    for server_round in range(5, 13):
        for message in played.grid.pushed[server_round - 1]:
            node, config = message.metadata.dst_node_id, message.content["config"]
            before = [m for m in played.grid.pushed[server_round - 2] if m.metadata.dst_node_id == node]
            if not before and config["cycle-round"] > 0:
                gaps += 1
                assert "correction" in message.content
    assert gaps > 0
    corrects = [
        list(m.content["config"]["corrects"])
        for messages in played.grid.pushed
        for m in messages
        if "correction" in m.content
    ]
    assert [NO_ROUND] in corrects  # means that it is owed, none of them for its own periods
    assert [] not in corrects  # which Flower's `message_size_mod` could not count


def test_no_two_starts_call_an_epoch_the_same():
    """What a client keeps outlives a start; it must not be taken for that of the next one."""
    strategy = DelayedAvg(delay=1)
    strategy.session = 3
    played = play(strategy, 2, 2)
    cycles = {int(m.content["config"]["cycle"]) for messages in played.grid.pushed for m in messages}
    assert cycles == {cycle_name(3, 1)}


def test_messages_of_one_kind_share_one_content():
    played = play(DelayedAvg(delay=1), 5, 4)
    for messages in played.grid.pushed:
        assert len({id(message.content) for message in messages}) == 1


def test_the_meter_counts_every_byte_that_travels():
    faults = {(0, 2): "raise", (1, 3): "forget", (2, 2): "malformed", (2, 4): "reply"}
    played = play(DelayedAvg(delay=2), 4, 8, faults=faults, clock=VirtualClock())
    metered = played.grid
    metered.close()
    down = sum(payload_bytes(m.content) for messages in metered.pushed for m in messages)
    up = sum(payload_bytes(reply.content) for reply in metered.pulled if reply.has_content())
    lost = payload_bytes(encode_record(start()))  # the lost reply was counted before it was lost
    assert sum(one.downlink_bytes for one in metered.exchanges) == down
    assert sum(one.uplink_bytes for one in metered.exchanges) == up + lost
    assert sum(one.errors for one in metered.exchanges) >= 1


# --- the value itself -----------------------------------------------------------------------------


def test_an_impossible_delay_is_refused():
    with pytest.raises(ConfigError, match="delay is -1"):
        DelayedAvg(delay=-1)


def test_where_replies_are_summed_is_not_for_it_to_say():
    assert DelayedAvg(fold="server", cohort=3).cohort == 3
    with pytest.raises(ConfigError, match="fold is 'workers', but DelayedAvg sums on the server"):
        DelayedAvg(fold="workers")


def test_it_runs_over_an_overlapping_grid_and_says_what_it_does(make_grid, caplog):
    grid = make_grid(lambda partition, message: None, 3)
    over = DelayedAvg().over(grid)
    assert isinstance(over, OverlapGrid)
    assert over.grid is grid
    with caplog.at_level(logging.INFO, "fedeff"):
        DelayedAvg(delay=4).summary()
    assert "means arrive 4 periods late" in caplog.text


def test_outside_of_a_round_nothing_is_waited_for():
    """Flower's loop sends an empty evaluation after each round; it must not eat train replies."""
    strategy = DelayedAvg(delay=1)

    def empty_evaluation(server_round: int) -> None:
        grid = strategies_grid[0]
        before = grid.outstanding
        assert (
            list(
                grid.send_and_receive(
                    strategy.configure_evaluate(server_round, encode_record(start()), ConfigRecord(), grid)
                )
            )
            == []
        )
        assert grid.outstanding == before

    strategies_grid: list[OverlapGrid] = []
    over = strategy.over
    strategy.over = lambda grid: strategies_grid.append(over(grid)) or strategies_grid[0]
    play(strategy, 3, 4, after_round=empty_evaluation)
