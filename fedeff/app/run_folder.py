"""A run's folder: configuration, records, summary, report, checkpoints and clients' states."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from fedeff.app.overrides import read_toml
from fedeff.core.errors import ResumeError
from fedeff.core.records import RoundRecord, Summary, cut_rounds, read_rounds, read_summary, write_summary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RunFolder", "claim_folder", "dated_name", "expand_runs", "is_run"]

_CONFIG = "config.toml"
_ENDED_WELL = ("finished", "stopped")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. `create` makes a new one, `open` finds one that is there."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunFolder":
        """A new folder that holds nothing but `config.toml`.

        Raises:
            ResumeError: if there is such a folder already, or none can be made.
        """
        claim_folder(path, _CONFIG, config)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that has begun.

        Raises:
            ResumeError: if it is no run's folder; names the runs beside it.
        """
        if not is_run(path):
            beside = sorted(other.name for other in path.parent.glob("*") if is_run(other))
            there = f"runs there: {', '.join(beside[-5:])}" if beside else f"no runs in {path.parent}"
            raise ResumeError(f"{path} is not the folder of a run (no {_CONFIG}); {there}")
        return cls(path)

    @property
    def name(self) -> str:
        """The run's name: the folder's."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The settings it was started with."""
        return self.path / _CONFIG

    @property
    def rounds_file(self) -> Path:
        """One line a round."""
        return self.path / "rounds.jsonl"

    @property
    def report_file(self) -> Path:
        """The page that `write_report` writes."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def client_states(self) -> Path:
        """The folder of what clients keep from round to round, in memory where it fits."""
        return self.path / "clients"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: all rounds, or the target."""
        summary = self.summary()
        return summary is not None and summary.status in _ENDED_WELL

    def config(self) -> dict[str, Any]:
        """The tables of `config.toml`."""
        return read_toml(self.config_file)

    def rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds on record."""
        return read_rounds(self.rounds_file)

    def cut_rounds(self, last_round: int) -> None:
        """Forget the rounds after `last_round`, which a resumed run repeats."""
        cut_rounds(self.rounds_file, last_round)

    def summary(self) -> Summary | None:
        """What the run came to, or None while it goes on."""
        return read_summary(self.path / "summary.json")

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, whole or not at all."""
        write_summary(self.path / "summary.json", summary)

    def forget_summary(self) -> None:
        """Remove `summary.json`: the run that it is of goes on."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_partition(self, class_counts: "NDArray[np.int64]") -> None:
        """Write `partition.npz` for the report: rows of each class at each client, (clients, classes)."""
        import numpy as np

        partial = self.path / "partition.partial.npz"
        np.savez_compressed(partial, class_counts=class_counts)
        partial.replace(self.path / "partition.npz")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts no other process can run in the folder; a kill ends it, too.

        Raises:
            ResumeError: if another process is at it.
        """
        with self.config_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResumeError(
                    f"{self.path} is being written by another process; wait for it, or choose another --name"
                ) from error
            yield

    def write_report(self) -> Path:
        """Write `report.html` from the records and return its path."""
        from fedeff.report import write_report

        return write_report(self.path)


def claim_folder(path: Path, file_name: str, tables: Mapping[str, Any]) -> None:
    """Make a new folder whose first file is this TOML file, whole or not at all.

    Raises:
        ResumeError: if the folder exists and holds anything, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A kill before the first file was whole leaves a folder that is nobody's run.
        taken = {entry.name for entry in path.iterdir()} - {f"{file_name}.partial"}
    except OSError as error:
        raise ResumeError(f"cannot make {path}: {error.strerror}; choose another --out or --name") from error
    if taken:
        raise ResumeError(
            f"{path} exists already; continue it with --resume --name {path.name}, or choose another --name"
        )
    partial = path / f"{file_name}.partial"
    partial.write_text(tomli_w.dumps(dict(tables)), encoding="utf-8")
    partial.replace(path / file_name)


def is_run(path: Path) -> bool:
    """Whether the folder holds a run."""
    return (path / _CONFIG).is_file()


def dated_name(what: str) -> str:
    """A name for a run that begins now: `20260131-154500-fedavg`."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{what}"


def expand_runs(path: Path) -> tuple[RunFolder, ...]:
    """The run in a folder or, where it is a folder of runs, each of them by name.

    Raises:
        ResumeError: if there is neither.
    """
    if is_run(path) or not path.is_dir():
        return (RunFolder.open(path),)
    runs = tuple(RunFolder(each) for each in sorted(path.iterdir()) if is_run(each))
    return runs or (RunFolder.open(path),)
