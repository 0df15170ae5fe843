"""The command of a page that is measured seed by seed: what is missing is measured, the rest kept."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from bench.harness import ROOT
from bench.machine import describe
from bench.seeded.cache import keep, kept
from bench.seeded.page import page
from bench.seeded.row import Measured, Row

__all__ = ["SeededPage"]

Rows = Callable[[], Mapping[str, Row]]


@dataclass(frozen=True)
class SeededPage:
    """A page of results; `rows`, those on it, is a function of a module, since processes call it anew."""

    name: str  # of the page, and of the folder under build/ that keeps results
    head: str
    rows: Rows
    about: str  # for --help

    def measure(self) -> int:
        """Measure what is missing, and write the page after every seed of a row; the exit status."""
        known, options = self.rows(), self._options()
        chosen = [key.strip() for key in options.rows.split(",") if key.strip()] or list(known)
        if unknown := set(chosen) - known.keys():
            sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(known)}")
        options.out.mkdir(parents=True, exist_ok=True)
        self._write(known, options)
        due = [(known[key], seed) for key in chosen for seed in self._due(known[key], options)]
        # Rows that time something have the machine for themselves, before the others take it.
        self._measure([one for one in due if not one[0].beside_others], 1, known, options)
        self._measure([one for one in due if one[0].beside_others], options.processes, known, options)
        return 0

    def _due(self, row: Row, options: argparse.Namespace) -> list[int]:
        seeds = _seeds(row, options)
        return [seed for seed in seeds if options.again or kept(row, seed, options.work) is None]

    def _measure(
        self,
        due: Sequence[tuple[Row, int]],
        processes: int,
        known: Mapping[str, Row],
        options: argparse.Namespace,
    ) -> None:
        # In a process of its own: torch's threads, memory and Ray begin anew, and leave nothing behind.
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawning, max_tasks_per_child=1) as pool:
            running = {pool.submit(_run, self.rows, row.key, seed): (row, seed) for row, seed in due}
            for over in as_completed(running):
                row, seed = running[over]
                measured, spent_s = over.result()
                keep(row, seed, options.work, measured, spent_s)
                _tell(row, seed, measured, spent_s)
                self._write(known, options)

    def _write(self, known: Mapping[str, Row], options: argparse.Namespace) -> None:
        (options.out / f"{self.name}.md").write_text(self._page(known, options))

    def _page(self, known: Mapping[str, Row], options: argparse.Namespace) -> str:
        done: dict[str, Sequence[Measured]] = {}
        for key, row in known.items():
            found = [kept(row, seed, options.work) for seed in _seeds(row, options)]
            done[key] = [measured for measured in found if measured is not None]
        machine = describe()
        told = ", ".join(
            f"{name} {machine[name]}" for name in ("cores", "cpu", "python", "flwr", "torch", "ray")
        )
        told += f"; commit {machine['commit']}, {machine['time_utc']} UTC.\n"
        return page(self.head, known, done, told)

    def _options(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(
            description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--rows", default="", help="comma-separated keys: " + ", ".join(self.rows()))
        parser.add_argument("--seeds", type=int, help="of each row (default: as many as it asks for)")
        parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="side by side")
        parser.add_argument("--again", action="store_true", help="measure also what is there")
        work, out = ROOT / "build" / self.name, ROOT / "bench" / "results"
        parser.add_argument("--work", type=Path, default=work, help="folder of the results")
        parser.add_argument("--out", type=Path, default=out, help="folder of the page")
        return parser.parse_args()


def _seeds(row: Row, options: argparse.Namespace) -> range:
    first = row.seeds.start
    return row.seeds if options.seeds is None else range(first, first + options.seeds)


def _run(rows: Rows, key: str, seed: int) -> tuple[Measured, float]:
    begin = time.perf_counter()
    return rows()[key].run(seed), time.perf_counter() - begin


def _tell(row: Row, seed: int, measured: Measured, spent_s: float) -> None:
    for name, case in measured.items():
        values = (f"{measure} {'never' if v is None else f'{v:.4g}'}" for measure, v in case.items())
        sys.stdout.write(f"{row.key} seed {seed}, {name}: {', '.join(values)}\n")
    sys.stdout.write(f"{row.key} seed {seed}: {spent_s:.0f} s\n")
    sys.stdout.flush()
