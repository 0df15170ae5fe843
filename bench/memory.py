"""Memory of all processes of one measured case: proportional set size (PSS), so that shared pages count once.

A case and everything it starts (Ray's daemons and workers too, whoever adopts them) carries a mark in its
environment; a process belongs to the case if /proc says that it was started with that mark.

python -m bench.memory MARK INTERVAL_S OUT

It appends "monotonic_s pss_bytes processes" lines to OUT until it is terminated.
"""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["MARK", "marked", "own_pss_bytes", "peak_bytes", "pss_bytes"]

MARK = "FEDEFF_BENCH_CASE"
_PROC = Path("/proc")


def marked(mark: str, known: dict[int, bool] | None = None) -> list[int]:
    """The processes that carry the mark; `known` remembers the answer per pid between calls."""
    known = {} if known is None else known
    needle, found = f"{MARK}={mark}".encode(), []
    pids = {int(entry) for entry in os.listdir(_PROC) if entry.isdigit()}  # noqa: PTH208
    for gone in known.keys() - pids:
        del known[gone]
    for pid in pids:
        # A child forked but not yet exec'd shows its parent's environment, so a yes stays a yes;
        # a no is asked again, for the same reason.
        if known.get(pid) or _carries(pid, needle):
            known[pid] = True
            found.append(pid)
    return found


def _carries(pid: int, needle: bytes) -> bool:
    try:
        return needle in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def pss_bytes(pids: Iterable[int]) -> int:
    """Sum of the processes' PSS; those that end meanwhile count 0."""
    return sum(_pss_of(pid) for pid in pids)


def _pss_of(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def own_pss_bytes() -> int:
    """PSS of every process of the case that this process belongs to."""
    return pss_bytes(marked(os.environ[MARK]))


def peak_bytes(samples: Path) -> int:
    """The largest sum in a file of samples, 0 for none."""
    return max((int(line.split()[1]) for line in samples.read_text().splitlines()), default=0)


def _watch(mark: str, interval_s: float, out: Path) -> None:
    known: dict[int, bool] = {}
    with out.open("a", buffering=1) as stream:
        while True:
            begin = time.monotonic()
            pids = marked(mark, known)
            stream.write(f"{begin:.3f} {pss_bytes(pids)} {len(pids)}\n")
            time.sleep(max(interval_s - (time.monotonic() - begin), interval_s / 4))


if __name__ == "__main__":
    _watch(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
