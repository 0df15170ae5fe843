"""Results of single seeds as JSON files: what is there already is not measured again."""

import hashlib
import json
from pathlib import Path

from bench.machine import describe
from bench.seeded.row import Measured, Row

__all__ = ["keep", "kept", "place"]


def place(row: Row, seed: int, work: Path) -> Path:
    """Where a seed's result lies: other settings, other file."""
    told = json.dumps(dict(row.settings), sort_keys=True)
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    return work / row.key / f"seed-{seed}_{digest}.json"


def kept(row: Row, seed: int, work: Path) -> Measured | None:
    """The result of a seed, if it was measured."""
    path = place(row, seed, work)
    if not path.exists():
        return None
    measured: Measured = json.loads(path.read_text())["measured"]
    return measured


def keep(row: Row, seed: int, work: Path, measured: Measured, spent_s: float) -> None:
    """Write a result and how long measuring took; whole or not at all."""
    path = place(row, seed, work)
    record = {
        "settings": dict(row.settings),
        "spent_s": round(spent_s, 1),
        "machine": describe(),
        "measured": measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(path)
