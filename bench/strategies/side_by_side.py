"""Runs of comparisons side by side, each in a process of its own; what is there already is not run again."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from bench.strategies.rows import Comparison, Outcomes
from bench.strategies.runs import folder_of, outcome, run
from fedeff.app.run_folder import RunFolder, is_run

__all__ = ["Runs", "Task"]

Task = tuple[str, str, int]  # comparison, case, seed


@dataclass(frozen=True)
class Runs:
    """The runs of the comparisons that `make(rounds)` gives, in folders under `work`.

    `make` is a function of a module, so that it can be sent to processes.
    """

    make: Callable[[int | None], dict[str, Comparison]]
    rounds: int | None  # in place of the comparisons' own numbers
    work: Path

    def table(self) -> dict[str, Comparison]:
        """The comparisons by key."""
        return self.make(self.rounds)

    def finish(self, tasks: Sequence[Task], jobs: int) -> Iterator[None]:
        """Finish these runs, so many at a time, telling of each; yields after each and, again, of all."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            running = [pool.submit(_finished, self, *task) for task in tasks]
            for done in as_completed(running):
                sys.stdout.write(done.result() + "\n")
                sys.stdout.flush()
                yield
        yield

    def outcomes(self, comparison: Comparison, seeds: int) -> Outcomes:
        """What the finished runs of the first seeds came to, by case."""
        target = comparison.target_accuracy
        folders = {case.name: self.folders(comparison, case.name, seeds) for case in comparison.cases}
        return {name: tuple(outcome(one, target) for one in found) for name, found in folders.items()}

    def folders(self, comparison: Comparison, name: str, seeds: int) -> list[RunFolder]:
        """The folders of a case's finished runs."""
        case = comparison.case(name)
        paths = [folder_of(comparison, case, seed, self.work) for seed in range(seeds)]
        found = [RunFolder.open(path) for path in paths if is_run(path)]
        return [folder for folder in found if folder.finished]


def _finished(runs: Runs, key: str, name: str, seed: int) -> str:
    """What one run came to, in a line."""
    import torch

    torch.set_num_threads(1)
    comparison = runs.table()[key]
    begin = time.perf_counter()
    found = outcome(run(comparison, comparison.case(name), seed, runs.work), comparison.target_accuracy)
    spent_s = time.perf_counter() - begin
    up = found.uplink_bytes / 1e6
    return f"{key} {name} seed {seed}: {found.accuracy:.2%}, {up:.3g} MB up ({spent_s:.0f} s)"
