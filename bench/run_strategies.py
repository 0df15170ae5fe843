"""Compares strategies on real data and writes `strategies.md`.

python bench/run_strategies.py [--rows resnet,cnn] [--seeds 3] [--jobs 2] [--quick] [--work build/strategies]

Each run lies in a folder under --work and is not repeated: stop it anywhere, start it again. Runs go side by
side, each in one process on the inline engine, which gives the same model as workers would.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import ROOT
from bench.machine import describe
from bench.strategies.page import page
from bench.strategies.rows import Comparison, Outcome, comparisons
from bench.strategies.runs import folder_of, outcome, run
from fedeff.app.run_folder import RunFolder, is_run

_QUICK_ROUNDS = 8


def main() -> int:
    """Run what is missing, seed by seed, and write the page after every run."""
    options = _options()
    table = _table(options)
    chosen = [key.strip() for key in options.rows.split(",") if key.strip()] or list(table)
    if unknown := set(chosen) - table.keys():
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(table)}")
    present = [key for key in chosen if _skipped(table[key]) is None]
    options.out.mkdir(parents=True, exist_ok=True)
    names = {key: [case.name for case in table[key].cases] for key in present}
    tasks = [(key, name, seed) for seed in range(options.seeds) for key in present for name in names[key]]
    _run_all(tasks, options)
    (options.out / "strategies.md").write_text(_page(table, options.seeds, options.work))
    return 0


def _run_all(tasks: Sequence[tuple[str, str, int]], options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        running = [pool.submit(_run_case, *task, options) for task in tasks]
        for done in as_completed(running):
            sys.stdout.write(done.result() + "\n")
            sys.stdout.flush()
            page = _page(_table(options), options.seeds, options.work)
            (options.out / "strategies.md").write_text(page)


def _run_case(key: str, name: str, seed: int, options: argparse.Namespace) -> str:
    """What one run came to, in a line."""
    import torch

    torch.set_num_threads(1)
    comparison = _table(options)[key]
    case = next(case for case in comparison.cases if case.name == name)
    begin = time.perf_counter()
    found = outcome(run(comparison, case, seed, options.work), comparison.target_accuracy)
    spent_s = time.perf_counter() - begin
    up = found.uplink_bytes / 1e6
    return f"{key} {name} seed {seed}: {found.accuracy:.2%}, {up:.0f} MB up ({spent_s:.0f} s)"


def _table(options: argparse.Namespace) -> dict[str, Comparison]:
    return comparisons(_QUICK_ROUNDS) if options.quick else comparisons()


def _skipped(comparison: Comparison) -> str | None:
    """Why a comparison cannot be run here, or None."""
    there = comparison.needs is None or comparison.needs.exists()
    return None if there else f"{comparison.needs} is not there"


def _page(table: dict[str, Comparison], seeds: int, work: Path) -> str:
    done: dict[str, tuple[Comparison, dict[str, tuple[Outcome, ...]]]] = {}
    skipped = {}
    for key, comparison in table.items():
        if why := _skipped(comparison):
            skipped[key] = why
            continue
        outcomes = {case.name: _outcomes(comparison, case.name, seeds, work) for case in comparison.cases}
        if any(outcomes.values()):
            done[key] = comparison, outcomes
    machine = describe()
    told = ", ".join(f"{name} {machine[name]}" for name in ("cores", "cpu", "python", "flwr", "torch", "ray"))
    return page(done, skipped, f"{told}; commit {machine['commit']}, {machine['time_utc']} UTC.\n")


def _outcomes(comparison: Comparison, name: str, seeds: int, work: Path) -> tuple[Outcome, ...]:
    case = next(case for case in comparison.cases if case.name == name)
    paths = [folder_of(comparison, case, seed, work) for seed in range(seeds)]
    finished = [RunFolder.open(path) for path in paths if is_run(path)]
    return tuple(outcome(one, comparison.target_accuracy) for one in finished if one.finished)


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
