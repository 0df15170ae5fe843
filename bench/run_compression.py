"""Measures codecs and writes `compression.md`: bits, speed, accuracy for bytes, the planner against a link.

python bench/run_compression.py [--seeds 3] [--jobs 2] [--quick] [--work build/compression]

Each run lies in a folder under --work and is not repeated: stop it anywhere, start it again. Codecs are
measured when all runs are done, by one thread, with nothing beside it.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is loaded, here and in the processes of runs
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from bench.compression.measuring import Measured, measure
from bench.compression.page import page
from bench.compression.rows import CODECS, COMBINATIONS, FLOAT, KEY, PACED, comparisons
from bench.compression.vectors import updates
from bench.harness import ROOT
from bench.machine import told
from bench.strategies.side_by_side import Runs

_QUICK_ROUNDS = 4
_UPDATES = 32
_REPEATS = 9


def main() -> int:
    """Run what is missing, seed by seed, measure the codecs, and write the page after every step."""
    options = _options()
    runs = Runs(comparisons, _QUICK_ROUNDS if options.quick else None, options.work)
    names = [case.name for case in runs.table()[KEY].cases]
    tasks = [(KEY, name, seed) for seed in range(options.seeds) for name in names]
    options.out.mkdir(parents=True, exist_ok=True)
    for _ in runs.finish(tasks, options.jobs):
        _write(runs, options)
    _measure(runs, options.work, 3 if options.quick else _REPEATS)
    _write(runs, options)
    return 0


def _measure(runs: Runs, work: Path, repeats: int) -> None:
    """Measure all codecs, on updates from the first finished run of FedAvg, and keep it."""
    folder = runs.folders(runs.table()[KEY], FLOAT, 1)[0]
    compared = [
        *(spec for _, spec in CODECS.values()),
        *(spec for *_, spec in COMBINATIONS.values() if spec),
    ]
    specs = list(dict.fromkeys(["raw", "tern_grad", "top_k(0.01)", *compared]))
    measured = measure(updates(folder, _UPDATES), specs, PACED, repeats)
    _kept(work).write_bytes(msgspec.json.format(msgspec.json.encode(measured)))


def _write(runs: Runs, options: argparse.Namespace) -> None:
    comparison, kept = runs.table()[KEY], _kept(options.work)
    measured = msgspec.json.decode(kept.read_bytes(), type=Measured) if kept.exists() else None
    outcomes = runs.outcomes(comparison, options.seeds)
    (options.out / "compression.md").write_text(page(comparison, outcomes, measured, told()))


def _kept(work: Path) -> Path:
    return work / "measured.json"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each case (default 3)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: processors)"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all?")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "compression", help="folder of the runs"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the page")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
