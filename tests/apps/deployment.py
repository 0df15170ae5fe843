"""What tests do with a site that is up: knock as a SuperNode of nobody's, and count processes."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from apps.own_process import started

from fedeff.deployment import Site, environment
from fedeff.deployment.commands import script
from fedeff.deployment.ports import free_port


@contextmanager
def intruder(site: Site, name: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A SuperNode beside those of the site; what it says is in the site's log of that name."""
    ports = ["--superlink", site.address, "--host", "127.0.0.1", "--port", str(free_port())]
    with started(
        [script("flower-supernode"), *ports, *options], site.log(name), environment(site)
    ) as process:
        yield process


def in_groups(groups: set[int]) -> list[psutil.Process]:
    """What runs in these process groups."""
    return [process for process in psutil.process_iter() if _group(process.pid) in groups]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def processes_of(site: Site) -> list[psutil.Process]:
    """All that runs of a site at this moment: what is recorded, and what that has started."""
    recorded = [psutil.Process(one.pid) for one in site.processes]
    return list(dict.fromkeys([*recorded, *(p for one in recorded for p in one.children(recursive=True))]))
