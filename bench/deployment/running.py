"""One way of running an app on a fresh loopback deployment, measured."""

import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.deployment.loopback import Loopback, Way, loopback
from bench.deployment.timeline import ROUND, causes, rounds
from bench.harness import ROOT
from bench.memory import peak_bytes
from bench.seeded.row import Case, Measured

__all__ = ["FASTEST", "PEAK", "SLOWEST", "Apps", "side_by_side", "under"]

FASTEST, SLOWEST, ANSWERED, PEAK = "fastest", "slowest", "replies", "peak memory, GB"
_TIMEOUT_S = 1500.0
_SAMPLE_EVERY_S = "1.0"

Apps = Callable[[Path, Way, Path], Path]  # makes an app in a folder, to run this way and write there


def side_by_side(ways: Sequence[Way], clients: int, app: Apps, seed: int, memory: bool = False) -> Measured:
    """Each way on its own deployment, one after the other; who goes first changes with the seed."""
    turn = seed % len(ways)
    measured = {way.name: _measured(way, clients, app, memory) for way in (*ways[turn:], *ways[:turn])}
    return {way.name: measured[way.name] for way in ways}


@contextmanager
def under(clients: int, way: Way) -> Iterator[Loopback]:
    """A deployment in a folder of its own, which goes with it."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        loopback(Path(folder) / "site", clients, way, uuid.uuid4().hex) as running,
    ):
        yield running


def _measured(way: Way, clients: int, app: Apps, memory: bool) -> Case:
    with under(clients, way) as running:
        out = running.folder / "out.json"
        sampled = running.folder / "memory"
        with _watched(running.mark, sampled) if memory else _nothing():
            running.run(app(running.folder / "app", way, out), out, _TIMEOUT_S)
        sendings = json.loads(out.read_text())["sendings"]
        took = rounds(sendings)
        case: dict[str, float | None] = {
            ROUND: statistics.median(took),
            FASTEST: min(took),
            SLOWEST: max(took),
            ANSWERED: statistics.mean(sending["replies"] for sending in sendings),
            **causes(sendings, running.said, running.folder),
        }
        return case | ({PEAK: peak_bytes(sampled) / 1e9} if memory else {})


@contextmanager
def _watched(mark: str, samples: Path) -> Iterator[None]:
    """The memory of all processes with the mark, sampled meanwhile."""
    command = [sys.executable, "-m", "bench.memory", mark, _SAMPLE_EVERY_S, str(samples)]
    samples.touch()
    watcher: subprocess.Popen[Any] = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        watcher.terminate()
        watcher.wait()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
