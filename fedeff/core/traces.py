"""Delay traces: how long each worker of a real job took for each iteration, replayed as slowdowns."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedeff.core.errors import TraceError
from fedeff.core.rng import generator

__all__ = ["Trace"]

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Trace:
    """Replays measured durations, `durations[iteration, worker]`, divided by their median.

    Client `c` is worker `c mod workers`, and round `r` is iteration `r + offset`, round and round.
    The offset is drawn from the seed once for each group of `workers` clients, so that workers that
    were slow together stay slow together. A duration of zero, which traces normalised to 0..1000
    contain, is a client that computes in no time.

    Of a normalised trace the order is real but the ratios need not be: say so where you quote them.
    """

    durations: NDArray  # (iterations, workers), in any unit
    seed: int = 0
    source: str = "trace"
    _slowdowns: NDArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        durations = np.array(self.durations, np.float64)
        if durations.ndim != 2 or durations.size == 0:
            raise TraceError(f"{self.source}: durations {durations.shape}, expected (iterations, workers)")
        if not (np.isfinite(durations).all() and (durations >= 0).all()):
            raise TraceError(f"{self.source}: a duration is negative or not finite; correct or drop it")
        median = np.median(durations)
        if not median > 0:
            raise TraceError(f"{self.source}: the median duration is 0, so there is nothing to compare with")
        slowdowns = durations / median
        for array in (durations, slowdowns):
            array.flags.writeable = False
        object.__setattr__(self, "durations", durations)
        object.__setattr__(self, "_slowdowns", slowdowns)

    @classmethod
    def read(cls, path: Path | str, *, seed: int = 0, duration: str | None = None) -> "Trace":
        """The trace in a CSV file with columns `worker`, `time` and a duration.

        `duration` names that column; None takes the last one that is neither `worker` nor `time`.
        Rows may come in any order. Iterations that lack a worker are left out at the beginning and
        the end, where recordings are ragged, and are an error in between.

        Raises:
            TraceError: if the file cannot be read, lacks a column, or holds a duration that is
                missing, negative or not a number; the message names the file and the line.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8") as lines:
                samples = list(_samples(path, csv.DictReader(lines), duration))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TraceError(f"cannot read the trace {path}: {error}; give a CSV file") from error
        if not samples:
            raise TraceError(f"{path}: no rows; a trace needs at least one worker,time,duration row")
        return cls(_table(path, samples), seed, str(path))

    def slowdown(self, client: int, round: int) -> float:
        """The duration of this client's iteration over the trace's median."""
        iterations, workers = self._slowdowns.shape
        group, worker = divmod(client, workers)
        offset = generator(self.seed, purpose="trace-offset", client=group).integers(iterations)
        return float(self._slowdowns[(round + offset) % iterations, worker])


class _Sample(NamedTuple):
    line: int
    worker: str
    time: float
    duration: float


def _samples(path: Path, rows: "csv.DictReader[str]", duration: str | None) -> Iterable[_Sample]:
    column = _duration_column(path, list(rows.fieldnames or ()), duration)
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        worker = (row["worker"] or "").strip()
        if not worker:
            raise TraceError(f"{where}: the worker is missing; every row needs worker,time,{column}")
        time, value = _number(where, "time", row["time"]), _number(where, column, row[column])
        if value < 0:
            raise TraceError(f"{where}: {column} is {row[column]}, expected a duration of 0 or more")
        yield _Sample(rows.line_num, worker, time, value)


def _duration_column(path: Path, header: list[str], wanted: str | None) -> str:
    for needed in ("worker", "time", *([wanted] if wanted else [])):
        if needed not in header:
            raise TraceError(f"{path}, line 1: no column {needed!r} in {','.join(header) or 'an empty file'}")
    columns = [name for name in header if name not in ("", "worker", "time")]
    if not columns:
        raise TraceError(f"{path}, line 1: no duration column; expected worker,time,duration")
    return wanted or columns[-1]


def _number(where: str, column: str, text: str | None) -> float:
    if text is None or not text.strip():
        raise TraceError(f"{where}: {column} is missing; correct or drop the row")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"{where}: {column} is {text!r}, expected a number")
    return value


def _table(path: Path, samples: list[_Sample]) -> NDArray:
    """Durations by (iteration, worker), ragged ends cut off."""
    workers = sorted({sample.worker for sample in samples}, key=_natural)
    times = sorted({sample.time for sample in samples})
    column, row = {name: i for i, name in enumerate(workers)}, {time: i for i, time in enumerate(times)}
    table = np.full((len(times), len(workers)), np.nan)
    for sample in samples:
        cell = row[sample.time], column[sample.worker]
        if not np.isnan(table[cell]):
            raise TraceError(
                f"{path}, line {sample.line}: worker {sample.worker} has a second duration at "
                f"time {sample.time:g}; keep one"
            )
        table[cell] = sample.duration
    complete = np.flatnonzero(~np.isnan(table).any(axis=1))
    if complete.size == 0:
        raise TraceError(f"{path}: at no time do all {len(workers)} workers have a duration")
    table = table[complete[0] : complete[-1] + 1]
    for gap, worker in np.argwhere(np.isnan(table)):
        raise TraceError(
            f"{path}: worker {workers[worker]} has no duration at time {times[complete[0] + gap]:g}; "
            "add the row, or drop that time for all workers"
        )
    return table


def _natural(worker: str) -> tuple[float, str]:
    return (float(worker) if worker.isdecimal() else math.inf), worker
