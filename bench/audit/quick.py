"""The command line: how long until somebody has a report."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.audit.tried import CPU_S, WALL_S, spread
from bench.figures import Figure, Spread
from bench.harness import ROOT
from bench.seeded.row import Case, Measured, Row, Value

__all__ = ["row"]

_SCRIPT = """\
from fedeff.app import Settings
from fedeff.audit import audit_leak, write_audit
result = audit_leak(Settings(dataset="digits", batch_size=1, local_steps=1), clients=20)
print(result.verdict.sentence)
write_audit(result, "audit")
"""
_STATUS, _LINES = "exit status", "lines of Python"
_DEFAULT, _OPEN = "audit leak", "audit leak, digits, one row"
_IMPORT, _API, _HELP = "import fedeff.audit", "import audit_leak", "audit --help"
_ALL = "import all that an audit runs on"
_REPORT = "five lines"
_ENDED = (0, 1, 2)  # an audit was made


@dataclass(frozen=True)
class _Command:
    arguments: tuple[str, ...]
    most_s: float | None
    statuses: tuple[int, ...] = (0,)
    leaves: str = ""  # a file that has to be there afterwards


def _leak(*arguments: str) -> tuple[str, ...]:
    return ("-m", "fedeff.cli", "audit", "leak", "--tier", "quick", "--out", "report", *arguments)


_COMMANDS: Mapping[str, _Command] = {
    _DEFAULT: _Command(_leak(), 60.0, _ENDED, "report/report.html"),
    _OPEN: _Command(
        _leak("--data", "digits", "-c", "batch-size=1", "-c", "local-steps=1"),
        60.0,
        _ENDED,
        "report/report.html",
    ),
    _IMPORT: _Command(("-c", "import fedeff.audit"), 2.0),
    _API: _Command(("-c", "from fedeff.audit import audit_leak"), 2.0),
    _ALL: _Command(("-c", "import fedeff.audit.audit"), None),
    _HELP: _Command(("-m", "fedeff.cli", "audit", "--help"), 2.0),
    _REPORT: _Command(("-c", _SCRIPT), None, leaves="audit/report.html"),
}


def row() -> Row:
    """Each command in a process of its own, alone on the machine."""
    settings: Mapping[str, Value] = {"commands": str([one.arguments for one in _COMMANDS.values()])}
    return Row("quick", "From a command to a report", settings, _run, _figures, _NOTE, seeds=range(3))


def _run(seed: int) -> Measured:
    return {name: _timed(command) for name, command in _COMMANDS.items()}


def _timed(command: _Command) -> Case:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    with tempfile.TemporaryDirectory(prefix="fedeff-bench-") as folder:
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command.arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        wall_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        left = not command.leaves or (Path(folder) / command.leaves).exists()
    if done.returncode not in command.statuses or not left:
        raise RuntimeError(f"{command.arguments} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {WALL_S: wall_s, CPU_S: cpu_s, _STATUS: float(done.returncode)}


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    timed = [
        Figure(f"{name}: seconds", spread(seeds, name, WALL_S), at_most=command.most_s, unit="s")
        for name, command in _COMMANDS.items()
    ]
    lines = Spread((float(len(_SCRIPT.splitlines())),))
    return [*timed, Figure(f"{_LINES} to the first report", lines, at_most=5, unit="lines", digits=0)]


_NOTE = f"""Each command is a process of its own and has both cores. `audit leak` is the built-in app as it
is, then on digits with one row and one step. Exit status: 0 PASS, 1 FAIL, 2 INCONCLUSIVE. torch, SciPy and
Flower are loaded when an audit is made, not when `audit_leak` is imported. The five lines:

```
{_SCRIPT}```"""
