"""One process that is watched and started again when it dies."""

import logging
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from fedeff.deployment import processes
from fedeff.deployment.private_files import make_private_folder
from fedeff.deployment.restarting import RestartRule
from fedeff.deployment.site import ProcessRecord

__all__ = ["Supervised", "end_of"]

_FIND_S = 1.0
_PATIENCE_S = 5.0
_LINES = 3
_LOOKED_AT_BYTES = 8192
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(r"\b(ERROR|Error|CRITICAL)\b|\w+Error:")
log = logging.getLogger(__name__)


class Supervised:
    """A command, and the process that runs it at the moment.

    `command` is asked for the command line and its port at each start: another port where the old one
    was the trouble. What the process says is appended to `says`. With `by_child` the process does its work
    by a child that it starts once and does not miss, as SuperLink and SuperNode do by a SuperExec: when that
    is gone, the process is ended and started again.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], tuple[list[str], int]],
        says: Path,
        environment: Mapping[str, str],
        rule: RestartRule = RestartRule(),  # noqa: B008, a frozen value
        clock: Callable[[], float] = time.monotonic,
        *,
        by_child: bool = False,
    ) -> None:
        self.name, self.says = name, says
        self.given_up = False
        self._command, self._environment, self._rule, self._clock = command, dict(environment), rule, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._by_child = by_child
        self._child: psutil.Process | None = None
        self._looked_s = 0.0
        self._record = ProcessRecord(name, 0, 0.0)
        self._restarts = self._deaths = self._said_before = 0
        self._started_s = self._due_s = 0.0

    @property
    def exit_code(self) -> int | None:
        """Of the process at hand; None while it runs or where there is none."""
        return self._process.poll() if self._process else None

    @property
    def ending(self) -> str:
        """How a process ended that should not have: exit code, last words, where the rest is."""
        words = end_of(self.says, self._said_before)
        return f"{self.name} ended with exit code {self.exit_code}: {words} (see {self.says})"

    @property
    def record(self) -> ProcessRecord:
        """What is known of it, for the site's file."""
        return self._record

    def start(self) -> None:
        """Start the command in a session of its own: a Ctrl-C at the terminal is not for it."""
        command, port = self._command()
        make_private_folder(self.says.parent)
        with self.says.open("ab") as out:
            self._said_before = out.tell()
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started_s, self._child = self._clock(), None
        pid = self._process.pid
        self._record = ProcessRecord(self.name, pid, processes.started_at_s(pid), port, self._restarts)
        log.info("%s started: pid %d, port %d", self.name, pid, port)

    def watch(self) -> bool:
        """Note a death, or start again what is due; whether something changed."""
        if self.given_up:
            return False
        if self._process is not None:
            if self.exit_code is None and self._by_child and self._child_is_gone():
                log.warning("%s goes on, but what worked for it (pid %d) is gone", self.name, self._child_pid)
                processes.end(self.family(), _PATIENCE_S)
                self._process.wait()
            return self.exit_code is not None and self._died()
        if self._clock() < self._due_s:
            return False
        self._restarts += 1
        self.start()
        return True

    def give_up(self, why: str, patience_s: float) -> None:
        """End what runs of it and do not start it again."""
        log.info("%s ends and is not started again: %s", self.name, why)
        processes.end(self.family(), patience_s)
        self._is_gone(given_up=True)

    def family(self) -> list[psutil.Process]:
        """The process and all it started, as far as they run."""
        here = processes.found(self._record)
        return processes.family([here]) if here else []

    @property
    def _child_pid(self) -> int:
        return self._child.pid if self._child else 0

    def _child_is_gone(self) -> bool:
        """Whether the child was there before and is not now; found once, as that looks at all processes."""
        if self._child is not None:
            return not processes.runs(self._child)
        if self._clock() - self._looked_s >= _FIND_S and (here := processes.found(self._record)):
            self._looked_s = self._clock()
            self._child = next(iter(here.children()), None)
        return False

    def _died(self) -> bool:
        self._deaths = self._rule.deaths_in_a_row(self._deaths, self._clock() - self._started_s)
        wait_s = self._rule.wait_s(self._deaths)
        self._due_s = self._clock() + (wait_s or 0.0)
        then = "given up" if wait_s is None else f"starting again in {wait_s:g} s"
        log.warning("%s; %s", self.ending, then)
        self._is_gone(given_up=wait_s is None)
        return True

    def _is_gone(self, given_up: bool) -> None:
        self.given_up, self._process = given_up, None
        self._record = ProcessRecord(self.name, 0, 0.0, 0, self._restarts, given_up)


def end_of(path: Path, start: int = 0) -> str:
    """In one line, what a log ends with: from its last error on, where it holds one, else its last lines.

    `start` is the byte that the search begins at.
    """
    try:
        with path.open("rb") as log_file:
            log_file.seek(max(start, path.stat().st_size - _LOOKED_AT_BYTES))
            text = _COLOUR.sub("", log_file.read().decode(errors="replace"))
    except OSError:
        return "nothing"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    shown = lines[errors[-1] :][:_LINES] if errors else lines[-_LINES:]
    return " | ".join(shown) or "nothing"
