"""The supervisor with stand-ins for Flower's commands: what comes up, what comes back, what is told."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedeff.core.errors import ConfigError
from fedeff.deployment import ProcessRecord, Site, launching, processes, supervisor, take_down
from fedeff.deployment.node_keys import make_node_key, mark_revoked, read_node_id
from fedeff.deployment.restarting import RestartRule
from fedeff.deployment.supervised import Supervised
from fedeff.deployment.supervisor import Supervisor

SLEEPS = "import time; time.sleep(600)"
BUSY = "import sys; print('ERROR: [Errno 98] address already in use'); sys.exit(1)"
WAIT_S = 60


class FakeSuperLink:
    """What `flwr` says: a node is online some answers after its key was registered."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.answers: list[str] = ["registered"] * 3  # then "online"

    def nodes(self) -> dict[str, str]:
        return dict.fromkeys(self.keys, self.answers.pop(0) if self.answers else "online")

    def register(self, public_key: str) -> str:
        self.keys[node_id := str(len(self.keys) + 1)] = public_key
        return node_id


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeSuperLink:
    fake = FakeSuperLink()

    @contextmanager
    def flwr(site: Site) -> Iterator[FakeSuperLink]:
        yield fake

    monkeypatch.setattr(supervisor, "flwr", flwr)
    monkeypatch.setattr(supervisor, "answers", lambda site: True)
    monkeypatch.setattr(supervisor, "superlink_command", lambda site: python(SLEEPS))
    monkeypatch.setattr(supervisor, "supernode_command", lambda site, number, port: python(SLEEPS))
    monkeypatch.setattr(Supervised.__init__, "__defaults__", (RestartRule(first_wait_s=0), time.monotonic))
    return fake


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "site", 2, tls=True, auth=True, port=9, phase="starting", token=tmp_path.name)
    for number in range(2):
        make_node_key(made.node(number))
    made.write()
    return made


@pytest.fixture
def supervise(site: Site) -> Iterator[Callable[[], threading.Event]]:
    """Run a supervisor in a thread; what ends it."""
    stop = threading.Event()
    threads = []

    def begin() -> threading.Event:
        threads.append(threading.Thread(target=Supervisor(site, stop).run))
        threads[0].start()
        return stop

    yield begin
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert processes.marked(site.token) == []


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def told(site: Site, met: Callable[[Site], bool]) -> Site:
    """What `site.toml` says once that is so."""
    ends_s = time.monotonic() + WAIT_S
    while not met(now := Site.read(site.folder)):
        assert time.monotonic() < ends_s, now
        time.sleep(0.02)
    return now


def record(site: Site, name: str) -> ProcessRecord:
    found = site.process(name)
    assert found is not None
    return found


def test_everything_comes_up_comes_back_and_goes(site, link, supervise) -> None:
    stop = supervise()
    up = told(site, lambda now: now.phase == "up")
    assert [one.name for one in up.processes] == ["supervisor", "superlink", "node-0", "node-1"]
    assert {read_node_id(site.node(n)): str(site.node(n) / "node.pub") for n in range(2)} == link.keys
    for name in ("node-1", "superlink"):
        killed = record(up, name)
        os.kill(killed.pid, signal.SIGKILL)
        back = told(site, lambda now, killed=killed: record(now, killed.name).pid not in (0, killed.pid))
        assert record(back, name).restarts == 1
        assert record(back, "node-0") == record(up, "node-0")
    stop.set()
    down = told(site, lambda now: now.phase == "down")
    assert down.processes == ()


def test_a_revoked_node_is_ended_and_does_not_come_back(site, link, supervise) -> None:
    supervise()
    up = told(site, lambda now: now.phase == "up")
    mark_revoked(site.node(0))
    now = told(site, lambda now: record(now, "node-0").given_up)
    assert processes.found(record(up, "node-0")) is None
    assert processes.found(record(now, "node-1"))


def test_keys_are_registered_once_and_revoked_ones_never_again(site, link, supervise) -> None:
    link.keys["7"] = "known"
    link.answers = ["offline"] * 3
    (site.node(0) / "node-id").write_text("7\n")
    mark_revoked(site.node(1))
    supervise()
    up = told(site, lambda now: now.phase == "up")
    assert link.keys == {"7": "known"}
    assert [one.name for one in up.processes if one.pid] == ["supervisor", "superlink", "node-0"]


def test_a_node_that_was_killed_is_waited_for_until_its_key_is_taken_again(site, link, supervise) -> None:
    link.keys = {"7": "known", "8": "known"}
    for number, node_id in enumerate(link.keys):
        (site.node(number) / "node-id").write_text(node_id)
    link.answers = ["online"] * 9 + ["offline"] * 2
    started = []
    link.nodes = lambda answer=link.nodes: (started.append(record_count(site)), answer())[1]
    supervise()
    told(site, lambda now: now.phase == "up")
    assert started[:9] == [0] * 9
    assert started[-1] == 2


def record_count(site: Site) -> int:
    """Nodes that run."""
    return sum(one.pid > 0 for one in Site.read(site.folder).processes if one.name.startswith("node-"))


@pytest.mark.parametrize("command", ["superlink_command", "supernode_command"])
def test_what_dies_at_the_start_is_quoted_and_leaves_nothing(site, link, monkeypatch, command) -> None:
    monkeypatch.setattr(supervisor, command, lambda *_: python(BUSY))
    monkeypatch.setattr(supervisor, "answers", lambda site: command != "superlink_command")
    monkeypatch.setattr(link, "nodes", dict)
    assert Supervisor(site, threading.Event()).run() == 1
    failed = Site.read(site.folder)
    assert (failed.phase, failed.processes) == ("failed", ())
    name = "superlink" if command == "superlink_command" else "node-"
    assert failed.failure.startswith(name)
    assert "ended with exit code 1: ERROR: [Errno 98] address already in use (see " in failed.failure
    assert processes.marked(site.token) == []


def test_told_to_end_while_it_starts_it_ends(site, link, monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "answers", lambda site: False)
    stop = threading.Event()
    stop.set()
    assert Supervisor(site, stop).run() == 0
    assert Site.read(site.folder).phase == "down"
    assert processes.marked(site.token) == []


def test_what_a_killed_supervisor_leaves_is_taken_down(site, link, supervise) -> None:
    supervise()
    up = told(site, lambda now: now.phase == "up")
    children = tuple(one for one in up.processes if one.name != "supervisor")
    ours = [found for one in children if (found := processes.found(one))]
    assert len(ours) == 3
    orphaned = up.but(processes=children)
    assert not launching.is_up(orphaned)
    supervisor_would_restart = [one for one in ours if one.is_running()]
    take_down(orphaned)
    assert [one for one in supervisor_would_restart if one.is_running() and one.status() != "zombie"] == []


def test_two_cannot_bring_up_one_site_at_once(site, monkeypatch) -> None:
    def second_up(*_: object) -> Site:
        with pytest.raises(ConfigError, match="is being brought up by another process"):
            launching.bring_up(site.folder, 1)
        return site

    monkeypatch.setattr(launching, "_brought_up", second_up)
    assert launching.bring_up(site.folder, 1) is site
    assert launching.bring_up(site.folder, 1) is site  # the lock went with the first
