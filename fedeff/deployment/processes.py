"""Processes by what does not change: pid with start time, session, a mark in the environment."""

import os
from collections.abc import Iterable
from contextlib import suppress

import psutil

from fedeff.deployment.site import ProcessRecord

__all__ = ["MARK", "descendants", "end", "family", "found", "marked", "runs", "started_at_s"]

MARK = "FEDEFF_SITE_TOKEN"  # in the environment of every process of a site and of whatever it starts
_CLOCK_S = 2.0  # the start in seconds since 1970 moves when the clock of the machine is set


def started_at_s(pid: int) -> float:
    """When the process began, in seconds since 1970; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def found(record: ProcessRecord | None) -> psutil.Process | None:
    """The process that was recorded, if it still runs; never another one that has its pid by now."""
    if record is None or record.pid <= 0:
        return None
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started_at_s) <= _CLOCK_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def family(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes, all that descend from them, and all in the sessions that they lead."""
    roots = list(roots)
    below = [process for root in roots for process in descendants(root)]
    sessions = {root.pid for root in roots}
    members = [process for process in psutil.process_iter() if _session(process) in sessions]
    return list(dict.fromkeys((*roots, *below, *members)))


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """The process, its children, theirs, and so on."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def marked(token: str) -> list[psutil.Process]:
    """Processes that carry the token in their environment, this one left out.

    Not those that hide it: `flower-superexec` does where its user is not root; see `family`.
    """
    carry = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == token:
                carry.append(process)
    return carry


def end(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Ask the processes to end, kill those that do not in time; the ones that are there even then."""
    asked = list(processes)
    for process in asked:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(asked, patience_s)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(left, patience_s)
    return [process for process in left if runs(process)]


def runs(process: psutil.Process) -> bool:
    """Whether it does; a zombie is dead, though listed until its parent asks for its exit status."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1
