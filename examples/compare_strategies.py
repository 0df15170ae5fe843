"""Three strategies on the same task, the same number of local steps, and what each sent.

Run it with `python examples/compare_strategies.py [FOLDER]`; a quarter of a minute.

The same on the command line, with a report for each run and one that overlays them:

    fedeff simulate -s fedavg -s fedlama -s fedluar --clients 100 -c "dataset=digits model=mlp cohort=20"
"""

import sys
import tempfile
from pathlib import Path

from fedeff.app import Plan, Runtime, Settings, simulate

TASK = {
    "dataset": "digits",
    "model": "mlp",
    "partition": "dirichlet:0.3",
    "cohort": 20,
    "local-steps": 5,
    "learning-rate": 0.3,
    "num-server-rounds": 24,
    "evaluate-every": 4,
}
STRATEGIES = {
    "fedavg": {},  # every layer, every round
    "fedlama": {"phi": 4},  # layers in which clients agree go up every fourth round only
    "fedluar": {"recycled-layers": 1},  # a layer that hardly moves repeats its last update
}


def main(folder: Path) -> None:
    """Run the three and print a line for each."""
    for strategy, own in STRATEGIES.items():
        settings = Settings.from_run_config({**TASK, **own, "strategy": strategy})
        plan, _ = Plan(settings, Runtime(clients=100, engine="inline")).checked()
        summary = simulate(plan, folder / strategy).summary()
        assert summary is not None
        up, down = summary.uplink_bytes / 1e6, summary.downlink_bytes / 1e6
        print(f"{strategy:8} accuracy {summary.accuracy:.1%}, {up:.1f} MB up, {down:.1f} MB down")
    print(f"reports: {folder}/*/report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp(prefix="fedeff-")))
