"""What a run says of its bytes is what its messages weigh, for every strategy that has a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import pytest
from apps.variants import VARIANTS, cohort_of, settings_of
from apps.wire import Counted, Wire

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.core.delays import VirtualClock
from fedeff.core.records import RoundRecord
from fedeff.core.state import StateStore
from fedeff.simulation import run_simulation
from fedeff.strategies import strategy_spec

CLIENTS, COHORT, ROUNDS, FAULTY_ROUND = 8, 5, 6, 4
FAULTS = ("request", "reply", "raise", "forget")
FOLDING = [
    variant
    for variant, given in VARIANTS.items()
    if "fold" in {setting.key for setting in strategy_spec(given["strategy"]).settings}
]


@dataclass(frozen=True)
class Ran:
    """A run: its records, what was counted beneath them, and how many clients keep something."""

    records: list[RoundRecord]
    wire: Wire
    clients: Counted
    keeping: int


def ran(variant: str, *, faults: Sequence[str] = (), fold: str = "server") -> Ran:
    settings = settings_of(
        variant,
        cohort=cohort_of(variant, COHORT, CLIENTS),
        num_server_rounds=ROUNDS,
        evaluate_clients=2,
        fold=fold,
        vectorise="never" if faults else "always",  # replies are made in two ways
    )
    # Only a clock tells an asynchronous strategy that it waits in vain.
    states, clock = StateStore(), VirtualClock() if faults else None
    clients = Counted(client_app_of(settings))
    records: list[RoundRecord] = []
    wires: list[Wire] = []

    def on_round(record: RoundRecord) -> None:
        records.append(record)
        wires[0].close_round()

    def wired(grid):
        wires.append(Wire(grid, clients, states, faults, FAULTY_ROUND))
        return wires[0]

    server = server_app(clock=clock, states=states, on_round=on_round)
    options = {"run_config": settings.run_config(), "clock": clock, "state_dir": states, "meter": wired}
    run_simulation(server, clients, CLIENTS, engine="inline", **options)
    keeping = len(states)
    states.close()
    return Ran(records, wires[0], clients, keeping)


def check_bytes(run: Ran) -> None:
    """The records are what passed the wire, round by round, and what passed is what the clients got."""
    down, up = (list(counts) for counts in zip(*run.wire.rounds, strict=True))
    assert [record.downlink_bytes for record in run.records] == down
    assert [record.uplink_bytes for record in run.records] == up
    assert [record.downlink_bytes_total for record in run.records] == list(accumulate(down))
    assert [record.uplink_bytes_total for record in run.records] == list(accumulate(up))
    assert sum(down) - run.wire.lost_down == run.clients.down > 0 < sum(up)


@pytest.mark.parametrize("variant", VARIANTS)
def test_records_hold_the_bytes_of_all_payloads(variant):
    check_bytes(ran(variant))


@pytest.mark.parametrize("variant", FOLDING)
def test_replies_that_workers_sum_count_as_if_each_had_travelled(variant):
    run = ran(variant, fold="workers")
    check_bytes(run)
    assert sum(record.uplink_bytes for record in run.records) == run.clients.up


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_lost_counts_on_the_way_down_and_not_on_the_way_up(variant):
    run = ran(variant, faults=FAULTS)
    check_bytes(run)
    fired = {**run.wire.fired, "raise": run.clients.failed}
    assert fired == {"request": 1, "reply": 1, "raise": 1, "forget": run.keeping > 0}
    assert sum(record.errors for record in run.records) == 1
    assert sum(record.missing for record in run.records) == run.wire.unanswered >= 2
