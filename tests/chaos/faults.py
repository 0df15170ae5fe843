"""Faults that count themselves: a site's processes killed at moments drawn from a seed, and their memory."""

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from fedeff.app.checkpoints import read_standing
from fedeff.app.deployed import server_process
from fedeff.app.run_folder import RunFolder
from fedeff.deployment import Site

SUPERNODE, SERVERAPP, SUPERLINK = "SuperNode", "ServerApp", "SuperLink"


@dataclass(frozen=True)
class Plan:
    """When which process is killed: one kind after another, a wait drawn between two bounds before each."""

    seed: int
    shortest_s: float
    longest_s: float
    kinds: tuple[str, ...]

    def faults(self, clients: int) -> list[tuple[float, str, int]]:
        """Seconds since the fault before, kind, and the number of the node where it is one."""
        rng = np.random.default_rng(self.seed)
        return [
            (float(rng.uniform(self.shortest_s, self.longest_s)), kind, int(rng.integers(clients)))
            for kind in self.kinds
        ]


@dataclass
class Toll:
    """What was killed, what was found after it, and how much memory each process had in which round."""

    fired: Counter[str] = field(default_factory=Counter)
    at_rounds: list[tuple[str, int]] = field(default_factory=list)
    checkpoints_read: int = 0
    unreadable: list[str] = field(default_factory=list)
    resident: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)  # (round, bytes)

    def growth(self, after_round: int) -> dict[str, tuple[int, int]]:
        """By kind of process: the largest first size and the largest growth in bytes of one that lived on.

        A process is first measured two rounds after `after_round` or after its start: then it has loaded
        what it needs.
        """
        worst: dict[str, tuple[int, int]] = {}
        for (kind, _), sizes in self.resident.items():
            settled = max(after_round, sizes[0][0]) + 2
            begun = [size for server_round, size in sizes if server_round <= settled]
            later = [size for server_round, size in sizes if server_round > settled]
            if begun and later:
                first, most = worst.get(kind, (0, -(2**62)))
                worst[kind] = (max(first, max(begun)), max(most, max(later) - max(begun)))
        return worst


def rounds_done(folder: RunFolder) -> int:
    rounds = folder.rounds()
    return rounds[-1].server_round if rounds else 0


def strike(site: Site, folder: RunFolder, kind: str, node: int, toll: Toll) -> bool:
    """Kill a process, count it, and read every checkpoint that is there; whether there was one to kill."""
    pid = _pid(site, folder, kind, node)
    if pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    _await_end(pid)
    toll.fired[kind] += 1
    toll.at_rounds.append((kind, rounds_done(folder) + 1))
    for path in sorted(folder.checkpoints.glob("round-*.safetensors")):
        readable = read_standing(path) is not None
        toll.checkpoints_read += readable
        if not readable and path.exists():  # a ServerApp that lives on drops old ones meanwhile
            toll.unreadable.append(path.name)
    return True


def weigh(site: Site, folder: RunFolder, toll: Toll) -> None:
    """Note how much memory SuperLink, ServerApp and SuperNodes have now."""
    server_round = rounds_done(folder)
    pids = {(SUPERLINK, _recorded(site, "superlink"))}
    pids |= {(SUPERNODE, _recorded(site, f"node-{number}")) for number in range(site.clients)}
    if (server := server_process(folder)) is not None:
        pids.add((SERVERAPP, server.pid))
    for kind, pid in pids:
        with suppress(psutil.Error):
            if pid:
                toll.resident.setdefault((kind, pid), []).append(
                    (server_round, psutil.Process(pid).memory_info().rss)
                )


def _pid(site: Site, folder: RunFolder, kind: str, node: int) -> int | None:
    if kind == SERVERAPP:
        process = server_process(folder)
        return None if process is None else process.pid
    return _recorded(site, "superlink" if kind == SUPERLINK else f"node-{node}") or None


def _recorded(site: Site, name: str) -> int:
    process = Site.read(site.folder).process(name)
    return 0 if process is None or not psutil.pid_exists(process.pid) else process.pid


def _await_end(pid: int) -> None:
    ends_s = time.monotonic() + 20
    while time.monotonic() < ends_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)
    raise AssertionError(f"pid {pid} outlived a kill")
