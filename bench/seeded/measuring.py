"""The command of a page that is measured seed by seed: what is missing is measured, the rest kept."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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
        """Measure what is missing, row by row, and write the page after every seed; the exit status."""
        known, options = self.rows(), self._options()
        chosen = [key.strip() for key in options.rows.split(",") if key.strip()] or list(known)
        if unknown := set(chosen) - known.keys():
            sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(known)}")
        options.out.mkdir(parents=True, exist_ok=True)
        for key in chosen:
            for seed in range(options.seeds):
                self._measure(known[key], seed, options)
                (options.out / f"{self.name}.md").write_text(self._page(known, options))
        return 0

    def _measure(self, row: Row, seed: int, options: argparse.Namespace) -> None:
        if kept(row, seed, options.work) is not None and not options.again:
            return
        begin = time.perf_counter()
        # In a process of its own: torch's threads, memory and Ray begin anew, and leave nothing behind.
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawning) as process:
            measured = process.submit(_run, self.rows, row.key, seed).result()
        keep(row, seed, options.work, measured, begin)
        for name, case in measured.items():
            values = (f"{measure} {'never' if v is None else f'{v:.4g}'}" for measure, v in case.items())
            sys.stdout.write(f"{row.key} seed {seed}, {name}: {', '.join(values)}\n")
        sys.stdout.write(f"{row.key} seed {seed}: {time.perf_counter() - begin:.0f} s\n")
        sys.stdout.flush()

    def _page(self, known: Mapping[str, Row], options: argparse.Namespace) -> str:
        done: dict[str, Sequence[Measured]] = {}
        for key, row in known.items():
            found = [kept(row, seed, options.work) for seed in range(options.seeds)]
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
        parser.add_argument("--seeds", type=int, default=3, help="of each row (default 3)")
        parser.add_argument("--again", action="store_true", help="measure also what is there")
        work, out = ROOT / "build" / self.name, ROOT / "bench" / "results"
        parser.add_argument("--work", type=Path, default=work, help="folder of the results")
        parser.add_argument("--out", type=Path, default=out, help="folder of the page")
        return parser.parse_args()


def _run(rows: Rows, key: str, seed: int) -> Measured:
    return rows()[key].run(seed)
