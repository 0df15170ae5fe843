"""A run folder as it lies on disk: what every table and figure is made from."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedeff.core.errors import DataError
from fedeff.core.records import RoundRecord, Summary, read_rounds, read_summary, summarise

__all__ = ["Run", "read_run"]

_NOT_SETTINGS = frozenset({"seed", "name", "run-name", "out", "resume", "started-at", "created-at", "folder"})


@dataclass(frozen=True)
class Run:
    """The records of one run; a run that goes on or was killed has no summary on disk but one here."""

    folder: Path
    name: str
    settings: dict[str, Any]  # config.toml, tables flattened: "section.key" -> value
    rounds: tuple[RoundRecord, ...]
    summary: Summary
    finished: bool  # whether there was a summary.json
    class_counts: np.ndarray[Any, np.dtype[Any]] | None = None  # (clients, classes)

    @property
    def seed(self) -> int | None:
        """The seed it ran with, where it is on record."""
        seed = self.summary.seed if self.summary.seed is not None else self.setting("seed")
        return None if seed is None else int(seed)

    @property
    def clients(self) -> int:
        """How many clients there were, or 0 where nothing tells."""
        if self.summary.clients:
            return self.summary.clients
        if self.class_counts is not None:
            return len(self.class_counts)
        return int(self.setting("clients") or 0)

    @property
    def strategy(self) -> str:
        """The strategy's name, or an empty string for an app that names none."""
        return self.summary.strategy or str(self.setting("strategy") or "")

    def setting(self, key: str) -> Any:
        """A setting by its own name, whatever table it lies in; None where it is absent."""
        for name, value in self.settings.items():
            if name.rpartition(".")[2] == key:
                return value
        return None

    def identity(self) -> dict[str, Any]:
        """What two repetitions with other seeds have in common: the settings but seed and names."""
        return {
            name: value
            for name, value in self.settings.items()
            if name.rpartition(".")[2] not in _NOT_SETTINGS
        }


def read_run(folder: Path | str) -> Run:
    """The records in a run folder, whatever state it was left in.

    Raises:
        DataError: the folder has none of the files of a run, or one of them is broken.
    """
    folder = Path(folder)
    known = [folder / name for name in ("config.toml", "rounds.jsonl", "summary.json")]
    if not any(path.exists() for path in known):
        raise DataError(
            f"{folder} holds no run (no config.toml, rounds.jsonl or summary.json); check the path"
        )
    settings = dict(_flat(_read_toml(known[0])))
    rounds = read_rounds(known[1])
    summary = read_summary(known[2])
    name = folder.resolve().name
    return Run(
        folder=folder,
        name=summary.name if summary and summary.name else name,
        settings=settings,
        rounds=rounds,
        summary=summary or replace(summarise(rounds, name=name), status="unfinished"),
        finished=summary is not None,
        class_counts=_read_class_counts(folder / "partition.npz"),
    )


def _read_toml(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error}); restore it or run again") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read_class_counts(path: Path) -> np.ndarray[Any, np.dtype[Any]] | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            counts = np.asarray(arrays["class_counts"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} holds no class_counts ({error}); delete it or run again") from error
    if counts.ndim != 2 or counts.dtype.kind not in "biuf":
        raise DataError(f"{path}: class_counts has shape {counts.shape}; expected (clients, classes)")
    return counts
