"""One SuperNode and one ServerApp killed on a real site; `make chaos` is the long version."""

import pytest
from chaos.faults import SERVERAPP, SUPERNODE, Plan, Toll
from chaos.storm import check, run_storm

from fedeff.deployment import running

ROUNDS, CLIENTS = 4, 2


@pytest.mark.slow
def test_a_kill_of_each_kind(tmp_path):
    settings = {
        "dataset": "digits",
        "model": "logistic",
        "strategy": "fedlama",
        "cohort": CLIENTS,
        "num-server-rounds": ROUNDS,
        "round-timeout-s": 90,
        "wait-for-clients-s": 240,
    }
    plan = Plan(seed=0, shortest_s=0.5, longest_s=2, kinds=(SUPERNODE, SERVERAPP))
    with running(tmp_path / "site", CLIENTS) as site:
        storm = run_storm(site, tmp_path / "runs", settings, plan, limit_s=1200)
    check(storm, ROUNDS, CLIENTS)
    assert storm.toll.fired == {SUPERNODE: 1, SERVERAPP: 1}
    assert storm.resumes == 1
    assert {kind for kind, _ in storm.toll.resident} == {"SuperLink", SERVERAPP, SUPERNODE}


def test_growth_is_counted_from_when_a_process_has_settled():
    toll = Toll()
    toll.resident[SUPERNODE, 1] = [(1, 10), (7, 50), (8, 55), (9, 52)]
    toll.resident[SUPERNODE, 2] = [(8, 30), (10, 60), (11, 62)]  # started later
    toll.resident[SERVERAPP, 3] = [(1, 10), (2, 90)]  # never settled
    assert toll.growth(5) == {SUPERNODE: (60, 5)}
