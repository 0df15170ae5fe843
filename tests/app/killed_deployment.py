"""Kill a small deployed run before operations on its files, start everything anew, and compare.

`python killed_deployment.py FOLDER SPACING [CODEC]` prints one JSON line. ServerApp, SuperLink and SuperNodes
are one child process, forked for every attempt: it ends by `os._exit` at an operation (opening for writing,
renaming, removing) on a file of the run folder or of a client's state, and with it all that was in memory.
The next attempt has other node ids. With SPACING above 0 one run is killed again and again, that many
operations after each start; with 0 a run each is killed once, at its first operation, its second, and so on.
The reference is the same run on the inline engine.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from apps.killing import left_by, to_its_end
from apps.loopback import LoopbackGrid, keys_for
from flwr.app import Context, RecordDict

# All that a run imports, here and once: the children inherit it.
import fedeff.app.deployed
import fedeff.simulation
from fedeff.app.client import ConfiguredClientApp
from fedeff.app.run import Plan, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.app.server import server_app
from fedeff.app.settings import Settings

CLIENTS = 4
SETTINGS = Settings(
    dataset="digits",
    model="mlp",
    strategy="fedlama",  # its clients keep state between the rounds of a cycle
    partition="dirichlet:0.5",
    cohort=2,
    evaluate_clients=2,
    num_server_rounds=4,
    local_steps=3,
    vectorise="never",
    own=(("phi", 2), ("keep-optimizer", True)),
)


def attempt(root: Path, settings: Settings, operation: int | None) -> bool:
    """Begin the run, or go on with it, in a child; whether it came to its end."""

    def work() -> None:
        fedeff.app.deployed.is_deployed = lambda grid: True
        RunFolder.write_report = lambda self: self.report_file  # drawn elsewhere
        config = replace(settings, run_folder=str(root / "run")).run_config()
        grid = LoopbackGrid(ConfiguredClientApp(), CLIENTS, config, root / "nodes")
        server_app(on_round=lambda record: None)(grid, Context(grid.run_id, 1, {}, RecordDict(), config))

    return to_its_end(work, root, operation)


def main() -> None:
    root, spacing = Path(sys.argv[1]), int(sys.argv[2])
    settings = replace(SETTINGS, codec=sys.argv[3] if len(sys.argv) > 3 else "")
    torch.set_num_threads(1)
    RunFolder.write_report = lambda self: self.report_file
    reference = Plan(settings, Runtime(clients=CLIENTS, engine="inline"))
    whole = left_by(simulate(reference, root / "inline").path)
    kills, differing = 0, []
    if spacing:
        keys_for(root / "often" / "nodes", CLIENTS)
        while not attempt(root / "often", settings, spacing):
            kills += 1
            assert kills < 200
        differing = [] if left_by(root / "often" / "run") == whole else [spacing]
    else:
        while True:
            folder = root / f"at-{kills + 1}"
            keys_for(folder / "nodes", CLIENTS)
            if attempt(folder, settings, kills + 1):
                break
            kills += 1
            assert attempt(folder, settings, None)
            if left_by(folder / "run") != whole:
                differing.append(kills)
    print(json.dumps({"kills": kills, "differing": differing, "rounds": len(whole[1])}))


if __name__ == "__main__":
    main()
