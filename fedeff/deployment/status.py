"""How a site stands at this moment: its processes, its nodes, its certificates."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from fedeff.deployment import processes
from fedeff.deployment.certificates import Certificate, read_certificate
from fedeff.deployment.flwr_command import flwr
from fedeff.deployment.node_keys import is_revoked, read_node_id
from fedeff.deployment.ports import answers
from fedeff.deployment.site import ProcessRecord, Site

__all__ = ["ProcessStatus", "SiteStatus", "node_status", "status"]


@dataclass(frozen=True)
class ProcessStatus:
    """A process of the site as it is now."""

    name: str
    up: bool
    pid: int
    port: int
    since: str  # ISO 8601, UTC; "" if it is not up
    restarts: int
    given_up: bool
    resident_bytes: int  # of it and what it started
    cpu_seconds: float


@dataclass(frozen=True)
class SiteStatus:
    """A site as it is now."""

    site: Site
    processes: tuple[ProcessStatus, ...]
    certificates: tuple[Certificate, ...]

    @property
    def up(self) -> bool:
        """Whether the site came up and every process that should run does."""
        return self.site.phase == "up" and all(one.up or self._revoked(one) for one in self.processes)

    @property
    def warnings(self) -> list[str]:
        """What its keeper should see to."""
        dead = [f"{one.name} is down" for one in self.processes if not one.up and not self._revoked(one)]
        failed = [f"the last start failed: {self.site.failure}"] if self.site.failure else []
        return [*failed, *dead, *(w for one in self.certificates if (w := one.warning()))]

    def as_json(self, nodes: Mapping[str, str]) -> dict[str, Any]:
        """The status and that of the nodes as plain values."""
        return {
            "folder": str(self.site.folder),
            "phase": self.site.phase,
            "up": self.up,
            "address": self.site.address,
            "tls": self.site.tls,
            "auth": self.site.auth,
            "processes": [asdict(one) for one in self.processes],
            "nodes": dict(nodes),
            "certificates": {one.path.name: one.expires_at.isoformat() for one in self.certificates},
            "warnings": self.warnings,
        }

    def _revoked(self, process: ProcessStatus) -> bool:
        kind, _, number = process.name.partition("-")
        return self.site.auth and kind == "node" and is_revoked(self.site.node(int(number)))


def status(site: Site) -> SiteStatus:
    """How the processes and certificates of a site stand; the SuperLink is not asked."""
    names = ("ca.crt", "server.crt") if site.tls else ()
    certificates = [
        read_certificate(site.certificate(name)) for name in names if site.certificate(name).exists()
    ]
    return SiteStatus(site, tuple(map(_status_of, site.processes)), tuple(certificates))


def node_status(site: Site) -> dict[str, str]:
    """What the SuperLink says of each node by name: online, offline, registered, unregistered.

    Empty if it is down. Nodes without keys have no name that lasts; they go by their id.
    """
    if not processes.found(site.process("superlink")) or not answers(site):
        return {}
    with flwr(site) as command:
        listed = command.nodes()
    if not site.auth:
        return {node: said for node, said in listed.items() if said == "online"}
    names = {read_node_id(site.node(number)): f"node-{number}" for number in range(site.clients)}
    return {names.get(node, node): said for node, said in listed.items()}


def _status_of(record: ProcessRecord) -> ProcessStatus:
    process = processes.found(record)
    resident_bytes, cpu_s = 0, 0.0
    # The supervisor started all the others, which have lines of their own.
    alone = record.name == "supervisor"
    for one in _measured(process, alone) if process else ():
        with suppress(psutil.Error):
            resident_bytes += one.memory_info().rss
            cpu_s += sum(one.cpu_times()[:2])
    since = datetime.fromtimestamp(record.started_at_s, UTC).isoformat(timespec="seconds") if process else ""
    return ProcessStatus(
        record.name,
        bool(process),
        record.pid,
        record.port,
        since,
        record.restarts,
        record.given_up,
        resident_bytes,
        cpu_s,
    )


def _measured(process: psutil.Process, alone: bool) -> list[psutil.Process]:
    return [process] if alone else processes.descendants(process)
