"""A SuperNode, a ServerApp and the SuperLink killed on a real site; `make chaos` is the long version."""

import pytest
import torch
from apps.killing import left_by
from chaos.faults import SERVERAPP, SUPERLINK, SUPERNODE, Plan, Toll
from chaos.storm import check, run_storm

from fedeff.app.run import Plan as Whole
from fedeff.app.run import simulate
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.deployment import running

ROUNDS, CLIENTS = 4, 2
SETTINGS = {
    "dataset": "digits",
    "model": "mlp",
    "strategy": "fedlama",  # clients keep state between the rounds of a cycle
    "keep-optimizer": True,
    "vectorise": "never",
    "cohort": CLIENTS,
    "num-server-rounds": ROUNDS,
    "round-timeout-s": 90.0,
    "wait-for-clients-s": 240.0,
}


@pytest.mark.slow
def test_servers_that_are_killed_leave_no_trace_in_the_model(tmp_path):
    """All clients take part in every round: the same bits as a run of the inline engine."""
    plan = Plan(seed=0, shortest_s=0.5, longest_s=2, kinds=(SERVERAPP, SUPERLINK))
    with running(tmp_path / "site", CLIENTS) as site:
        storm = run_storm(site, tmp_path / "runs", SETTINGS, plan, limit_s=1200)
    check(storm, ROUNDS, CLIENTS)
    assert storm.toll.fired == {SERVERAPP: 1, SUPERLINK: 1}
    assert storm.resumes == 2
    assert [record.arrived for record in storm.folder.rounds()] == [CLIENTS] * ROUNDS
    torch.set_num_threads(1)
    whole = Whole(Settings.from_run_config(SETTINGS), Runtime(clients=CLIENTS, engine="inline"))
    assert left_by(storm.folder.path)[0] == left_by(simulate(whole, tmp_path / "inline").path)[0]


@pytest.mark.slow
def test_a_killed_node_comes_back_and_takes_part(tmp_path):
    plan = Plan(seed=0, shortest_s=0.5, longest_s=2, kinds=(SUPERNODE,))
    rounds = 2 * ROUNDS  # it is away for two or three
    with running(tmp_path / "site", CLIENTS) as site:
        settings = SETTINGS | {"num-server-rounds": rounds}
        storm = run_storm(site, tmp_path / "runs", settings, plan, limit_s=1200)
    check(storm, rounds, CLIENTS)
    assert storm.toll.fired == {SUPERNODE: 1}
    assert storm.resumes == 0
    assert storm.folder.rounds()[-1].arrived == CLIENTS
    assert {kind for kind, _ in storm.toll.resident} == {SUPERLINK, SERVERAPP, SUPERNODE}


def test_growth_is_counted_from_when_a_process_has_settled():
    toll = Toll()
    toll.resident[SUPERNODE, 1] = [(1, 10), (7, 50), (8, 55), (9, 52)]
    toll.resident[SUPERNODE, 2] = [(8, 30), (10, 60), (11, 62)]  # started later
    toll.resident[SERVERAPP, 3] = [(1, 10), (2, 90)]  # never settled
    assert toll.growth(5) == {SUPERNODE: (60, 5)}
