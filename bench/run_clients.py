"""Measures what each client algorithm brings and writes `clients.md`.

python bench/run_clients.py [--rows smooth-out,slim-qn] [--seeds 3] [--again] [--work build/clients]

Each seed of a row is kept as a file under --work and not measured again: stop it anywhere, start it again.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients.cache import keep, kept
from bench.clients.page import page
from bench.clients.row import Measured, Row
from bench.clients.table import rows
from bench.harness import ROOT
from bench.machine import describe


def main() -> int:
    """Measure what is missing, row by row, and write the page after every seed."""
    options, known = _options(), rows()
    chosen = [key.strip() for key in options.rows.split(",") if key.strip()] or list(known)
    if unknown := set(chosen) - known.keys():
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for key in chosen:
        for seed in range(options.seeds):
            _measure(known[key], seed, options)
            (options.out / "clients.md").write_text(_page(known, options.seeds, options.work))
    return 0


def _measure(row: Row, seed: int, options: argparse.Namespace) -> None:
    if kept(row, seed, options.work) is not None and not options.again:
        return
    begin = time.perf_counter()
    # In a process of its own: torch's threads, memory and Ray begin anew, and leave nothing behind.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as process:
        measured = process.submit(_run, row.key, seed).result()
    keep(row, seed, options.work, measured, begin)
    for name, case in measured.items():
        told = ", ".join(f"{measure} {'never' if v is None else f'{v:.4g}'}" for measure, v in case.items())
        sys.stdout.write(f"{row.key} seed {seed}, {name}: {told}\n")
    sys.stdout.write(f"{row.key} seed {seed}: {time.perf_counter() - begin:.0f} s\n")
    sys.stdout.flush()


def _run(key: str, seed: int) -> Measured:
    return rows()[key].run(seed)


def _page(known: Mapping[str, Row], seeds: int, work: Path) -> str:
    done: dict[str, Sequence[Measured]] = {}
    for key, row in known.items():
        found = [kept(row, seed, work) for seed in range(seeds)]
        done[key] = [measured for measured in found if measured is not None]
    machine = describe()
    told = ", ".join(f"{name} {machine[name]}" for name in ("cores", "cpu", "python", "flwr", "torch", "ray"))
    return page(known, done, f"{told}; commit {machine['commit']}, {machine['time_utc']} UTC.\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="comma-separated keys: " + ", ".join(rows()))
    parser.add_argument("--seeds", type=int, default=3, help="of each row (default 3)")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "clients", help="folder of the results")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the page")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
