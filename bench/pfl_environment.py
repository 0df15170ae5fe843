"""An environment of its own for pfl, which asks for other packages than flwr does."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from bench.harness import ROOT

__all__ = ["PFL", "pfl_bin"]

PFL = "pfl==0.6.0"
_FOLDER = ROOT / ".venv-pfl"


def pfl_bin() -> tuple[Path, str]:
    """The folder of the environment's commands, made where there is none; and why it could not be made."""
    folder = _FOLDER / "bin"
    if _has_pfl(folder):
        return folder, ""
    print(f"making {_FOLDER.name} for {PFL} (some minutes) ...", file=sys.stderr, flush=True)
    torch = f"torch=={metadata.version('torch').split('+')[0]}"
    for command in (
        [sys.executable, "-m", "venv", str(_FOLDER)],
        [str(folder / "pip"), "install", "--quiet", PFL, torch, f"numpy=={metadata.version('numpy')}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=_clean())
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
            return folder, f"{PFL} cannot be installed: {lines[-1] if lines else done.returncode}"
    return folder, "" if _has_pfl(folder) else f"{PFL} was installed but cannot be imported"


def _has_pfl(folder: Path) -> bool:
    command = [str(folder / "python"), "-c", "import pfl, torch"]
    return (folder / "python").exists() and not subprocess.run(
        command, capture_output=True, env=_clean()
    ).returncode


def _clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
