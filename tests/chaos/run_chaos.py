"""`make chaos`: 20 rounds on real processes under faults, counted; writes bench/results/chaos.md."""

import argparse
import os
import tempfile
from pathlib import Path

from chaos.faults import SERVERAPP, SUPERLINK, SUPERNODE, Plan
from chaos.storm import Storm, check, run_storm

from fedeff.deployment import running

CLIENTS = 3
AFTER_ROUND = 5
MOST_GROWTH_BYTES = 48 * 2**20  # of a process, from two rounds after round 5 (or its start) to its end
PAGE = Path(__file__).parents[2] / "bench" / "results" / "chaos.md"
KINDS = (SUPERNODE, SERVERAPP, SUPERNODE, SUPERNODE, SERVERAPP, SUPERLINK, SUPERNODE)


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__)
    read.add_argument("--rounds", type=int, default=20)
    read.add_argument("--limit-s", type=float, default=600, help="the run ends by then, or fails")
    read.add_argument("--seed", type=int, default=0)
    read.add_argument("--spacing-s", type=float, nargs=2, default=(5, 30), help="between faults")
    read.add_argument("--round-timeout-s", type=float, default=30)
    read.add_argument("--faults", type=int, default=len(KINDS), help="how many of the seven")
    read.add_argument("--page", type=Path, default=PAGE)
    given = read.parse_args()
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    settings = {
        "dataset": "digits",
        "model": "mlp",
        "strategy": "fedlama",  # clients keep state between the rounds of a cycle
        "keep-optimizer": True,
        "optimizer": "adam",
        "learning-rate": 0.001,
        "cohort": CLIENTS,
        "num-server-rounds": given.rounds,
        "round-timeout-s": given.round_timeout_s,
        "wait-for-clients-s": 4 * given.round_timeout_s,
        "seed": given.seed,
    }
    plan = Plan(given.seed, *given.spacing_s, KINDS[: given.faults])
    with tempfile.TemporaryDirectory(prefix="fedeff-chaos-") as made:
        with running(Path(made) / "site", CLIENTS) as site:
            storm = run_storm(site, Path(made) / "runs", settings, plan, given.limit_s)
        check(storm, given.rounds, CLIENTS)
        assert set(storm.toll.fired) == {SUPERNODE, SERVERAPP, SUPERLINK}, storm.toll.fired
        page = page_of(storm, given)
    print(page)
    grown = {kind: most for kind, (_, most) in storm.toll.growth(AFTER_ROUND).items()}
    assert all(most <= MOST_GROWTH_BYTES for most in grown.values()), grown
    given.page.write_text(page)


def page_of(storm: Storm, given: argparse.Namespace) -> str:
    records, toll = storm.folder.rounds(), storm.toll
    lost = [record.server_round for record in records if record.arrived < record.cohort]
    where = ", ".join(f"{kind} in round {server_round}" for kind, server_round in toll.at_rounds)
    lines = [
        "# Chaos",
        "",
        f"`make chaos`: a SuperLink and {CLIENTS} SuperNodes on loopback, {given.rounds} rounds of fedlama "
        f"(seed {given.seed}). Processes are killed by SIGKILL at moments drawn from the seed; "
        "the site's supervisor starts SuperLink and SuperNodes again, `fedeff deploy run --resume` the run.",
        "",
        "| | |",
        "| --- | --- |",
        f"| SuperNodes killed | {toll.fired[SUPERNODE]} |",
        f"| ServerApps killed | {toll.fired[SERVERAPP]} |",
        f"| SuperLinks killed | {toll.fired[SUPERLINK]} |",
        f"| resumed | {storm.resumes} times |",
        f"| rounds on record | {len(records)} of {given.rounds}, each once |",
        f"| rounds that lost a client | {len(lost)}: {', '.join(map(str, lost)) or 'none'} |",
        f"| replies counted | {sum(record.arrived for record in records)}, none twice |",
        f"| replies missing or failed | {sum(record.missing + record.errors for record in records)} |",
        f"| checkpoints read after kills | {toll.checkpoints_read}, all readable |",
        f"| wall time | {storm.wall_s / 60:.1f} minutes |",
        "",
        f"Killed: {where}.",
        "",
        f"Memory of one process, resident, MiB; growth from two rounds after round {AFTER_ROUND} or after "
        f"its start. More than {MOST_GROWTH_BYTES >> 20} MiB fails the test.",
        "",
        "| process | at first | largest growth |",
        "| --- | ---: | ---: |",
    ]
    for kind, (first, most) in sorted(toll.growth(AFTER_ROUND).items()):
        lines.append(f"| {kind} | {first / 2**20:.0f} | {most / 2**20:+.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
