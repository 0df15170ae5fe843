"""Processor time of all processes of one measured case: what a busy machine disturbs less than seconds."""

import os
from collections.abc import Iterable
from pathlib import Path

from bench.memory import MARK, marked

__all__ = ["cpu_s", "own_cpu_s"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds that the processes have spent on a processor so far; those that ended meanwhile count 0."""
    return sum(map(_ticks, pids)) / _TICKS_PER_S


def own_cpu_s() -> float:
    """The same of every process of the case that this process belongs to; of this one where none is told."""
    mark = os.environ.get(MARK)
    return cpu_s([os.getpid()] if mark is None else marked(mark))


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    user, system = stat.rpartition(")")[2].split()[11:13]  # after the name, which may hold anything
    return int(user) + int(system)
