"""What a row is, and how thoroughly to measure it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, Results
from bench.harness import Case
from bench.yardstick.workload import ROOT as DATA

__all__ = ["Row", "Settings", "without_data"]


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure, and with what."""

    workers: int = 2
    quick: bool = False
    full: bool = False
    pfl_bin: Path = Path()
    without_pfl: str = ""  # why there is none
    without_data: str = ""


@dataclass(frozen=True)
class Row:
    """Cases that are measured in turns, and the figures that follow from them."""

    key: str
    title: str
    cases: tuple[Case, ...]
    against: tuple[str, ...]  # cases that the others are divided by
    figures: Callable[[Results], list[Figure]]
    note: str = ""


def without_data() -> str:
    """Why the yardstick cannot run; empty where its data is there."""
    return "" if DATA.is_dir() else f"no data: {DATA} is absent (Debian's dataset-fashion-mnist)"
