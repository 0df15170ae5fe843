"""Kill a small run before each of its operations on the run folder, resume it, and compare.

`python killed_run.py FOLDER SPACING` prints one JSON line. A child process is forked for every
attempt; in it the process ends by `os._exit` at the n-th operation (opening for writing, renaming,
removing) on anything inside the run folder, so no handler, no `finally` and no buffer gets a turn.
With SPACING above 0 one run is killed again and again, that many operations after each start.
"""

import json
import sys
from pathlib import Path

import torch
from apps.killing import left_by, to_its_end

# All that a run imports, here and once: the children inherit it.
import fedeff.app.client
import fedeff.app.server
import fedeff.simulation  # noqa: F401
from fedeff.app.run import Plan, continue_run, simulate
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings

PLAN = Plan(
    Settings(
        dataset="digits",
        model="mlp",
        strategy="fedlama",  # its clients keep state between the rounds of a cycle
        partition="dirichlet:0.5",
        cohort=2,
        evaluate_clients=2,
        num_server_rounds=3,
        own=(("phi", 2), ("keep-optimizer", True)),
    ),
    Runtime(clients=8, engine="inline", delays="pareto:1.5", latency_s=0.1),
)


def attempt(folder: Path, operation: int | None) -> bool:
    """Begin the run, or go on with it, in a child; whether it came to its end."""

    def work() -> None:
        RunFolder.write_report = lambda self: self.report_file  # drawn elsewhere
        continue_run(RunFolder.open(folder)) if is_run(folder) else simulate(PLAN, folder)

    return to_its_end(work, folder, operation)


def main() -> None:
    root, spacing = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    assert attempt(root / "whole", None)
    whole = left_by(root / "whole")
    kills, differing = 0, []
    if spacing:
        folder = root / "often"
        while not attempt(folder, spacing):
            kills += 1
            assert kills < 100
        differing = [] if left_by(folder) == whole else [spacing]
    else:
        while not attempt(folder := root / f"at-{kills + 1}", kills + 1):
            kills += 1
            assert attempt(folder, None)
            if left_by(folder) != whole:
                differing.append(kills)
    print(json.dumps({"kills": kills, "differing": differing, "rounds": len(whole[1]), "left": whole}))


if __name__ == "__main__":
    main()
