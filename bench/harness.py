"""Runs one case at a time, each in a fresh process, and keeps what it printed."""

import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import load_average
from bench.memory import MARK, marked, peak_bytes

__all__ = ["Case", "python", "run_case"]

ROOT = Path(__file__).resolve().parent.parent
YARDSTICK = ROOT / "bench" / "yardstick"
_SAMPLE_EVERY_S = 0.1
# Left to itself, Flower's engine joins whatever Ray cluster runs on the machine.
_ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_ADDRESS": "local"}
_LINE = re.compile(r"(\w+)=([\d.,]+)")


@dataclass(frozen=True)
class Case:
    """One thing to measure: a command, and in how many repeats of its row it runs."""

    name: str
    label: str
    command: tuple[str, ...]
    messages: int = 0  # in a round, where the row tells messages a second
    repeats: int | None = None  # None: in all
    memory: bool = False  # sample the memory of all its processes; such a case is not timed
    skip: str = ""  # why the case cannot run
    timeout_s: float = 900.0
    env: dict[str, str] = field(default_factory=dict)


def python(*arguments: object) -> tuple[str, ...]:
    """A command for this interpreter."""
    return (sys.executable, *map(str, arguments))


def run_case(case: Case) -> dict[str, Any]:
    """What the case measured: `samples_s`, `median_s`, `peak_bytes`; or `error`, why it measured nothing."""
    if case.skip:
        return {"error": case.skip}
    mark, load = secrets.token_hex(8), load_average()
    paths = os.pathsep.join(map(str, (ROOT, YARDSTICK / "flower_app")))
    env = os.environ | _ENVIRONMENT | {"PYTHONPATH": paths, MARK: mark} | case.env
    with tempfile.TemporaryDirectory() as folder:
        output, samples = Path(folder) / "output", Path(folder) / "samples"
        with output.open("w") as stream:
            process = subprocess.Popen(
                case.command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
            )
            watcher = _watch(mark, samples) if case.memory else None
            try:
                code: int | None = process.wait(case.timeout_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                for started in (process, watcher):
                    if started is not None:
                        started.kill()
                        started.wait()
                _end_rest(mark)
        text = output.read_text(errors="replace")
        if code != 0:
            why = f"exit code {code}" if code is not None else f"no end after {case.timeout_s:.0f} s"
            return {"error": why, "output": text[-2000:]}
        result = _result(text) | {"load": load}
        if case.memory:
            result["peak_bytes"] = peak_bytes(samples)
        return result


def _watch(mark: str, samples: Path) -> "subprocess.Popen[bytes]":
    command = python("-m", "bench.memory", mark, _SAMPLE_EVERY_S, samples)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)


def _end_rest(mark: str) -> None:
    """End what the case has left behind, so that the next one has the machine for itself."""
    for pid in marked(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _result(text: str) -> dict[str, Any]:
    """The last line of JSON, or the last `key=value` line with a median, as the yardstick prints it."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            if result["samples_s"]:
                result.setdefault("median_s", statistics.median(result["samples_s"]))
            return result
        if "median_s=" in line:
            values = dict(_LINE.findall(line))
            result = {key: float(values[key]) for key in ("median_s", "accuracy") if key in values}
            if "samples_s" in values:
                result["samples_s"] = [float(s) for s in values["samples_s"].split(",")]
            return result
    return {"error": "no result line", "output": text[-2000:]}
