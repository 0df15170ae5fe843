"""Bringing a site up, taking it down, and having one for the length of a block."""

import fcntl
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fedeff.core.errors import ConfigError, DeploymentError
from fedeff.deployment import processes
from fedeff.deployment.certificates import make_certificates, read_certificate
from fedeff.deployment.client_command import write_client_command
from fedeff.deployment.commands import script, write_connection
from fedeff.deployment.metrics import check_metrics
from fedeff.deployment.node_keys import is_revoked, make_node_key, make_state_key
from fedeff.deployment.ports import check_free, free_port
from fedeff.deployment.private_files import make_private_folder
from fedeff.deployment.site import Site
from fedeff.deployment.supervised import end_of

__all__ = ["bring_up", "is_up", "running", "take_down"]

_LOOK_S = 0.1
_LOCK = "up.lock"
_PATIENCE_S = 20.0  # with a supervisor that ends its processes
_REST_S = 3.0  # with what is left after that


def bring_up(
    folder: Path,
    clients: int,
    *,
    tls: bool = False,
    auth: bool = False,
    prompt: bool = False,
    port: int = 0,
    metrics_port: int = 0,
) -> Site:
    """Start a SuperLink and `clients` SuperNodes on this machine and wait until all nodes are online.

    They outlive this process; `take_down` ends them. Certificates and keys that are missing are made,
    and node keys registered under `auth`. A port of 0 is chosen, a metrics port of 0 means none.

    Raises:
        ConfigError: if the site is up already, a port is taken, or a certificate has expired.
        DeploymentError: if something ends at its start; everything is down again then.
    """
    asked = Site(folder, clients, tls, auth, prompt, port, metrics_port)
    make_private_folder(folder)
    with _alone(folder):
        return _brought_up(folder, asked)


def _brought_up(folder: Path, asked: Site) -> Site:
    before = Site.read(folder) if asked.file.exists() else asked
    if is_up(before):
        raise ConfigError(f"the site {folder} is up already; end it with: fedeff deploy down --site {folder}")
    take_down(before)  # what a killed supervisor may have left
    _check(asked)
    _make_missing(asked)
    site = asked.but(port=asked.port or free_port(), token=secrets.token_hex(8), phase="starting")
    site.write()
    write_connection(site)
    try:
        return _until_up(site, _start_supervisor(site))
    except BaseException:
        take_down(Site.read(folder))
        raise


def is_up(site: Site) -> bool:
    """Whether the site's supervisor runs."""
    return processes.found(site.process("supervisor")) is not None


def take_down(site: Site) -> None:
    """End every process of the site: asked first, then killed; also those that they started.

    Raises:
        DeploymentError: if a process does not end, with its pid.
    """
    if (supervisor := processes.found(site.process("supervisor"))) is not None:
        processes.end([supervisor], _PATIENCE_S)
        site = Site.read(site.folder)
    # Nodes first: a SuperLink that is told of it takes their keys again at once.
    processes.end(_recorded(site, "node-"), _REST_S)
    rest = processes.marked(site.token) if site.token else []
    left = processes.end([*_recorded(site, ""), *rest], _REST_S)
    if left:
        raise DeploymentError(f"pids {', '.join(str(one.pid) for one in left)} do not end; end them by hand")
    if site.file.exists():
        site.but(phase="down", processes=()).write()


@contextmanager
def running(
    folder: Path,
    clients: int,
    *,
    tls: bool = False,
    auth: bool = False,
    prompt: bool = False,
    port: int = 0,
    metrics_port: int = 0,
) -> Iterator[Site]:
    """A site that is up for the length of the block; see `bring_up`.

    >>> with running(Path("deployment"), clients=3, tls=True, auth=True) as site:  # doctest: +SKIP
    ...     print(site.address)
    """
    site = bring_up(folder, clients, tls=tls, auth=auth, prompt=prompt, port=port, metrics_port=metrics_port)
    try:
        yield site
    finally:
        take_down(Site.read(folder))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While this lasts no other process brings the site up; a kill ends it, too."""
    with os.fdopen(os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"the site {folder} is being brought up by another process; wait for it, or choose another "
                "--site"
            ) from error
        yield


def _check(site: Site) -> None:
    for name in ("flower-superlink", "flower-supernode"):
        script(name)
    if site.port:
        check_free("--port", site.port)
    if site.metrics_port:
        check_metrics()
        check_free("--metrics-port", site.metrics_port)
    server = site.certificate("server.crt")
    if site.tls and server.exists() and (one := read_certificate(server)).days_left() <= 0:
        raise ConfigError(one.warning())


def _make_missing(site: Site) -> None:
    make_private_folder(site.folder)
    write_client_command(site.commands)
    if site.tls and not site.certificate("server.crt").exists():
        make_certificates(site.certificate("ca.crt").parent)
    for number in range(site.clients):
        folder = site.node(number)
        make_state_key(folder)
        if site.auth and not (folder / "node.key").exists():
            make_node_key(folder)
    if site.auth and all(is_revoked(site.node(number)) for number in range(site.clients)):
        raise ConfigError(
            f"the keys of all {site.clients} nodes are revoked; make one anew: fedeff deploy certs --node 0"
        )


def _start_supervisor(site: Site) -> "subprocess.Popen[bytes]":
    make_private_folder(site.log("supervisor").parent)
    command = [sys.executable, "-m", "fedeff.deployment.supervisor", str(site.folder)]
    with site.log("supervisor").open("ab") as said:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )


def _until_up(site: Site, supervisor: "subprocess.Popen[bytes]") -> Site:
    while True:
        ended = supervisor.poll()
        site = Site.read(site.folder)
        if site.phase == "up":
            return site
        if site.phase == "failed":
            raise DeploymentError(site.failure)
        if ended is not None:
            says = site.log("supervisor")
            raise DeploymentError(f"the supervisor ended with exit code {ended}: {end_of(says)} (see {says})")
        time.sleep(_LOOK_S)


def _recorded(site: Site, prefix: str) -> list[psutil.Process]:
    records = [one for one in site.processes if one.name.startswith(prefix)]
    return processes.family(one for record in records if (one := processes.found(record)))
