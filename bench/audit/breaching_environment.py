"""An environment of its own for breaching, which asks for torchvision."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from bench.harness import ROOT

__all__ = ["BREACHING", "breaching_python", "clean_environment", "told"]

BREACHING = "breaching==0.1.2"
_TOLD = ("breaching", "torch", "torchvision")
_FOLDER = ROOT / ".venv-breaching"
_PYTHON, _WHY_NOT = _FOLDER / "bin" / "python", ROOT / "build" / "why-no-breaching.txt"
_LOCK = ROOT / "build" / "breaching.lock"


def breaching_python() -> tuple[Path, str]:
    """The environment's Python, made where there is none; and why it could not be made.

    Torch is of the version that fedeff runs on, so that both sides compute with the same; torchvision is
    whichever goes with it.
    """
    with _alone():
        why = "" if _versions() else _made()
    return _PYTHON, why


@contextmanager
def _alone() -> Iterator[None]:
    """While this lasts no other process is here: seeds run side by side, and one makes it for all."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean_environment() -> dict[str, str]:
    """This process's variables without those that would lead another Python here."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}


def told() -> str:
    """What is installed there, or why nothing is, in a line."""
    return _versions() or _why_not()


def _made() -> str:
    """Make the environment; why that failed, if it did, which is also kept beside it for the page."""
    print(f"making {_FOLDER.name} for {BREACHING} (some minutes) ...", file=sys.stderr, flush=True)
    torch = f"torch=={metadata.version('torch').split('+')[0]}"
    for command in (
        [sys.executable, "-m", "venv", str(_FOLDER)],
        [str(_PYTHON), "-m", "pip", "install", "--quiet", BREACHING, torch, "torchvision"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
            why = f"{BREACHING} cannot be installed: {lines[-1] if lines else done.returncode}"
            _WHY_NOT.write_text(why)
            return why
    return ""


def _why_not() -> str:
    reason = _WHY_NOT.read_text().strip() if _WHY_NOT.exists() else ""
    return reason or f"{BREACHING} is not installed"


def _versions() -> str:
    """What of these is installed there; nothing where one is not.

    Its import, which takes seconds, is the attack's to try.
    """
    places = [str(place) for place in _FOLDER.glob("lib/python*/site-packages")]
    found = {one.name: one.version for one in metadata.distributions(path=places)}
    return ", ".join(f"{name} {found[name]}" for name in _TOLD) if found.keys() >= set(_TOLD) else ""
