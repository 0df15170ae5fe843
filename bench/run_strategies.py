"""Compares strategies on real data and writes `strategies.md`.

python bench/run_strategies.py [--rows resnet,cnn] [--seeds 3] [--jobs 2] [--quick] [--work build/strategies]

Each run lies in a folder under --work and is not repeated: stop it anywhere, start it again. Runs go side by
side, each in one process on the inline engine, which gives the same model as workers would.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import ROOT
from bench.machine import told
from bench.strategies.page import page
from bench.strategies.rows import Comparison, comparisons
from bench.strategies.side_by_side import Runs

_QUICK_ROUNDS = 8


def main() -> int:
    """Run what is missing, seed by seed, and write the page after every run."""
    options = _options()
    runs = Runs(comparisons, _QUICK_ROUNDS if options.quick else None, options.work)
    table = runs.table()
    chosen = [key.strip() for key in options.rows.split(",") if key.strip()] or list(table)
    if unknown := set(chosen) - table.keys():
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(table)}")
    present = [key for key in chosen if _skipped(table[key]) is None]
    options.out.mkdir(parents=True, exist_ok=True)
    names = {key: [case.name for case in table[key].cases] for key in present}
    tasks = [(key, name, seed) for seed in range(options.seeds) for key in present for name in names[key]]
    for _ in runs.finish(tasks, options.jobs):
        (options.out / "strategies.md").write_text(_page(runs, options.seeds))
    return 0


def _skipped(comparison: Comparison) -> str | None:
    """Why a comparison cannot be run here, or None."""
    there = comparison.needs is None or comparison.needs.exists()
    return None if there else f"{comparison.needs} is not there"


def _page(runs: Runs, seeds: int) -> str:
    done, skipped = {}, {}
    for key, comparison in runs.table().items():
        if why := _skipped(comparison):
            skipped[key] = why
            continue
        outcomes = runs.outcomes(comparison, seeds)
        if any(outcomes.values()):
            done[key] = comparison, outcomes
    return page(done, skipped, told())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="comma-separated keys: " + ", ".join(comparisons()))
    parser.add_argument("--seeds", type=int, default=3, help="of each case (default 3)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: processors)"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all?")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "strategies", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the page")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
