"""What the figures were measured on: cores, CPU, memory, versions, load."""

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "load_average", "told"]

_PACKAGES = ("fedeff", "flwr", "ray", "torch", "numpy")


def describe() -> dict[str, str | int | float]:
    """The machine as plain values."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "shm_gib": _free_gib(Path("/dev/shm")),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "time_utc": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def told() -> str:
    """The machine in a line."""
    machine = describe()
    facts = ", ".join(
        f"{name} {machine[name]}" for name in ("cores", "cpu", "python", "flwr", "torch", "ray")
    )
    return f"{facts}; commit {machine['commit']}, {machine['time_utc']} UTC.\n"


def load_average() -> float:
    """Runnable processes over the last minute: other people's work, before a measurement begins."""
    return round(os.getloadavg()[0], 2)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _free_gib(folder: Path) -> float:
    stat = os.statvfs(folder)
    return round(stat.f_bavail * stat.f_frsize / 2**30, 1)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (commit or "none") + (" with local changes" if commit and changed else "")
