"""The process that starts a site's SuperLink and SuperNodes, watches them, and ends them.

`fedeff deploy up` starts it as `python -m fedeff.deployment.supervisor FOLDER`; from then on it alone
writes `site.toml`. It ends on SIGTERM, with all it started. A process that dies is started again by
`RestartRule`; what happened is in `logs/supervisor.log`.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedeff.core.errors import DeploymentError, FedeffError
from fedeff.deployment import processes
from fedeff.deployment.commands import environment, superlink_command, supernode_command
from fedeff.deployment.flwr_command import Flwr, flwr
from fedeff.deployment.metrics import serve_metrics
from fedeff.deployment.node_keys import is_revoked, read_node_id, write_node_id
from fedeff.deployment.ports import answers, free_port
from fedeff.deployment.site import ProcessRecord, Site
from fedeff.deployment.supervised import Supervised

__all__ = ["Supervisor", "main"]

_TICK_S = 0.2
_START_S = 300.0  # each step; on a busy machine Flower's imports alone take a minute
_PATIENCE_S = 8.0  # with what was asked to end
log = logging.getLogger(__name__)


class _Asked(Exception):
    """The supervisor was told to end while it was starting."""


class Supervisor:
    """What runs of a site, by name: the SuperLink, then the nodes."""

    def __init__(self, site: Site, stop: threading.Event) -> None:
        self.site, self._stop = site, stop
        surroundings = environment(site)
        self._link = Supervised(
            "superlink",
            lambda: (superlink_command(self.site), self.site.port),
            site.log("superlink"),
            surroundings,
            by_child=True,
        )
        self._nodes = [
            Supervised(
                f"node-{n}",
                partial(self._node_command, n),
                site.log(f"node-{n}"),
                surroundings,
                by_child=not site.prompt,  # prompt clients come and go
            )
            for n in range(site.clients)
        ]

    def run(self) -> int:
        """Start everything, watch it until told to stop, end everything; the exit status."""
        failure = ""
        try:
            self._launch()
            while not self._stop.wait(_TICK_S):
                self._watch()
        except _Asked:
            log.info("told to end while starting")
        except FedeffError as error:
            failure = str(error)
            log.error("%s", failure)
        finally:
            self._end()
        self._write(phase="failed" if failure else "down", failure=failure)
        return 1 if failure else 0

    def _launch(self) -> None:
        if self.site.metrics_port:
            serve_metrics(self.site)
        self._link.start()
        self._write()
        with flwr(self.site) as command:  # loads while the SuperLink does
            self._wait_until("the SuperLink answers", lambda: answers(self.site), [])
            if self.site.auth:
                self._register(command)
            self._start_nodes(command)
        self._write(phase="up")
        log.info("the site is up: SuperLink %s, %d SuperNodes", self.site.address, self.site.clients)

    def _start_nodes(self, command: Flwr) -> None:
        own = {read_node_id(self.site.node(number)) for number in range(self.site.clients)}
        # A key is refused while its node seems to be online: one that was killed, until it misses heartbeats.
        self._wait_until(
            "nodes that were killed are known to be gone", lambda: not _online(command) & own, []
        )
        before = _online(command)
        running = [node for number, node in enumerate(self._nodes) if not self._revoked(number)]
        for node in running:
            node.start()
        self._write()
        self._wait_until(
            f"{len(running)} SuperNodes are online",
            # Without keys every start makes new nodes; those of an earlier one may still seem online.
            lambda: len(_online(command) - before) >= len(running),
            running,
        )

    def _register(self, command: Flwr) -> None:
        """Register the keys that the SuperLink's database does not know, revoked ones left out."""
        known = command.nodes()
        for number in range(self.site.clients):
            folder = self.site.node(number)
            if read_node_id(folder) not in known and not is_revoked(folder):
                node_id = command.register(str(folder / "node.pub"))
                write_node_id(folder, node_id)
                log.info("node-%d is registered as %s", number, node_id)

    def _wait_until(self, what: str, met: Callable[[], bool], needed: list[Supervised]) -> None:
        ends_s = time.monotonic() + _START_S
        while not met():
            watched = (self._link, *needed)
            if (ended := next((one for one in watched if one.exit_code is not None), None)) is not None:
                raise DeploymentError(ended.ending)
            if time.monotonic() > ends_s:
                raise DeploymentError(
                    f"not after {_START_S:g} s: {what}; see {self.site.log('superlink').parent}"
                )
            if self._stop.wait(_TICK_S):
                raise _Asked

    def _watch(self) -> None:
        for number, node in enumerate(self._nodes):
            if not node.given_up and self._revoked(number):
                node.give_up("its key was revoked", _PATIENCE_S)
                self._write()
        changed = [one.watch() for one in (self._link, *self._nodes)]
        if any(changed):
            self._write()

    def _revoked(self, number: int) -> bool:
        return self.site.auth and is_revoked(self.site.node(number))

    def _end(self) -> None:
        """End the nodes, which then take their leave of the SuperLink, then the SuperLink."""
        for group in (self._nodes, [self._link]):
            left = processes.end((process for one in group for process in one.family()), _PATIENCE_S)
            for process in left:
                log.error("pid %d does not end", process.pid)

    def _node_command(self, number: int) -> tuple[list[str], int]:
        port = free_port()
        return supernode_command(self.site, number, port), port

    def _write(self, **changes: object) -> None:
        me = ProcessRecord(
            "supervisor", os.getpid(), processes.started_at_s(os.getpid()), self.site.metrics_port
        )
        running = () if changes.get("phase") in ("down", "failed") else (me, *self._records())
        self.site = self.site.but(processes=running, **changes)
        self.site.write()

    def _records(self) -> tuple[ProcessRecord, ...]:
        return tuple(one.record for one in (self._link, *self._nodes))


def _online(command: Flwr) -> set[str]:
    return {node for node, status in command.nodes().items() if status == "online"}


def main(folder: Path) -> int:
    """Supervise the site of a folder until SIGTERM; the exit status."""
    os.umask(0o077)  # logs and the database are private too, also those that Flower writes
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return Supervisor(Site.read(folder), stop).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
