"""Supervised processes, with tiny stand-ins: they die, come back, are given up, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.deployment import processes
from fedeff.deployment.processes import MARK
from fedeff.deployment.restarting import RestartRule
from fedeff.deployment.site import ProcessRecord
from fedeff.deployment.supervised import Supervised, end_of

SLEEPS = "import time; print('here', flush=True); time.sleep(600)"
DIES = "import sys; print('INFO fine'); print('ERROR no oil'); print('INFO bye'); sys.exit(3)"
IGNORES_TERM = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
)
STARTS = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {0!r}]{1}); time.sleep(600)"
)
# A child in a session of its own and its child, as the SuperLink starts its SuperExec and that an app.
HAS_FAMILY = STARTS.format(STARTS.format(SLEEPS, ""), ", start_new_session=True")
WAIT_S = 60


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """`supervise(code)`: a supervised Python that runs the code; its family is killed in the end."""
    made: list[Supervised] = []
    token = tmp_path.name

    def make(code: str, **options: object) -> Supervised:
        command = [sys.executable, "-S", "-c", code]
        one = Supervised(
            "one", lambda: (command, 7), tmp_path / "one.log", os.environ | {MARK: token}, **options
        )
        made.append(one)
        one.start()
        return one

    yield make
    processes.end([*(p for one in made for p in one.family()), *processes.marked(token)], 0.1)


def until(met: Callable[[], object]) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < ends_s, "waited in vain"
        time.sleep(0.01)


@given(deaths=st.integers(1, 50))
def test_waits_double_up_to_the_longest_and_end_at_the_limit(deaths: int) -> None:
    rule = RestartRule(first_wait_s=1, longest_wait_s=30, limit=8)
    wait_s = rule.wait_s(deaths)
    assert wait_s == (None if deaths > 8 else [1, 2, 4, 8, 16, 30, 30, 30][deaths - 1])


def test_a_killed_nodes_key_is_taken_again_before_it_is_given_up() -> None:
    """Flower takes a killed node to be online for two heartbeats of 30 s."""
    rule = RestartRule()
    assert sum(rule.wait_s(n) or 0 for n in range(1, rule.limit + 1)) > 60


def test_a_long_life_wipes_the_slate() -> None:
    rule = RestartRule(settled_s=120)
    assert rule.deaths_in_a_row(5, lived_s=119) == 6
    assert rule.deaths_in_a_row(5, lived_s=120) == 1


def test_what_dies_is_started_again_after_its_wait_and_then_given_up(supervise, caplog) -> None:
    clock, deaths = Clock(), 0
    one = supervise(DIES, rule=RestartRule(first_wait_s=10, longest_wait_s=10, limit=2), clock=clock)
    while not one.given_up:
        until(lambda: one.exit_code is not None)
        assert one.watch()
        deaths += 1
        clock.now_s += 9.9
        assert not one.watch()
        clock.now_s += 0.2
        one.watch()
    assert (deaths, one.record.restarts, one.record.given_up, one.record.pid) == (3, 2, True, 0)
    assert one.says.read_text().count("no oil") == 3
    assert [r.message.rpartition("; ")[2] for r in caplog.records if r.levelname == "WARNING"] == [
        "starting again in 10 s",
        "starting again in 10 s",
        "given up",
    ]
    assert "exit code 3: ERROR no oil | INFO bye (see " in caplog.records[-1].message


def test_a_killed_process_comes_back_under_another_pid(supervise) -> None:
    one = supervise(SLEEPS, rule=RestartRule(first_wait_s=0))
    first = one.record
    assert not one.watch()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: one.watch() and one.record.pid == 0)
    assert one.watch()
    assert one.record.pid not in (0, first.pid)
    assert one.record.restarts == 1
    assert processes.found(one.record)
    assert processes.found(first) is None


def test_a_process_that_lost_its_child_is_ended_and_started_again(supervise) -> None:
    """A SuperLink without its SuperExec answers, and nothing ever runs."""
    clock = Clock()
    one = supervise(HAS_FAMILY, rule=RestartRule(first_wait_s=0), clock=clock, by_child=True)
    first = one.record
    until(lambda: len(one.family()) == 3)
    clock.now_s += 1
    assert not one.watch()  # the child is known from here on
    child = psutil.Process(first.pid).children()[0]
    child.kill()
    until(one.watch)
    assert processes.found(first) is None
    until(one.watch)
    assert one.record.pid not in (0, first.pid)
    until(lambda: len(one.family()) == 3)
    clock.now_s += 1
    assert not one.watch()


def test_a_process_whose_child_is_its_own_business_goes_on_without(supervise) -> None:
    clock = Clock()
    one = supervise(HAS_FAMILY, clock=clock)
    until(lambda: len(one.family()) == 3)
    clock.now_s += 1
    assert not one.watch()
    psutil.Process(one.record.pid).children()[0].kill()
    clock.now_s += 1
    assert not one.watch()


def test_what_was_given_up_is_not_started_again(supervise) -> None:
    one = supervise(SLEEPS, rule=RestartRule(first_wait_s=0))
    before = one.record
    one.give_up("enough", 5)
    assert not one.watch()
    assert (one.record.pid, one.record.given_up) == (0, True)
    assert processes.found(before) is None


def test_grandchildren_in_sessions_of_their_own_end_too(supervise) -> None:
    one = supervise(HAS_FAMILY)
    until(lambda: len(one.family()) == 3)
    family = one.family()
    assert processes.end(family, 5) == []
    assert [process for process in family if process.is_running()] == []


def test_orphans_are_found_by_their_session_and_by_their_mark(supervise, tmp_path) -> None:
    one = supervise(HAS_FAMILY)
    until(lambda: len(one.family()) == 3)
    family = one.family()
    family[0].kill()
    family[0].wait()
    assert {p.pid for p in processes.marked(tmp_path.name)} == {p.pid for p in family[1:]}
    assert processes.marked("another token") == []


def test_what_ignores_a_request_is_killed(supervise) -> None:
    one = supervise(IGNORES_TERM)
    until(lambda: "here" in one.says.read_text())
    assert processes.end(one.family(), 0.2) == []
    assert one.exit_code in (-signal.SIGKILL, 0)  # psutil may have asked for the status before
    assert processes.found(one.record) is None


def test_a_pid_that_somebody_else_has_by_now_is_left_alone(supervise) -> None:
    one = supervise(SLEEPS)
    record = one.record
    earlier = ProcessRecord("one", record.pid, record.started_at_s - 100)
    assert processes.found(earlier) is None
    assert processes.found(record) == psutil.Process(record.pid)
    assert processes.found(ProcessRecord("none", 0, 0)) is None
    assert processes.found(None) is None


def test_a_process_leads_a_session_of_its_own(supervise) -> None:
    """Ctrl-C at the terminal of `fedeff deploy up` is not for it."""
    one = supervise(SLEEPS)
    assert os.getsid(one.record.pid) == one.record.pid != os.getsid(0)


def test_a_zombie_is_not_up() -> None:
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    record = ProcessRecord("dead", dead.pid, processes.started_at_s(dead.pid))
    until(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE)
    assert processes.found(record) is None
    dead.wait()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", "nothing"),
        ("a\nb\n\nc\nd\n", "b | c | d"),
        (
            "\x1b[91mERROR \x1b[0m: Exit Code: 305\nno way\n\nmore\nINFO bye",
            "ERROR : Exit Code: 305 | no way | more",
        ),
        ("Traceback\n  x\nValueError: 3\n", "ValueError: 3"),
    ],
)
def test_last_words_begin_at_the_last_error(said: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(said)
    assert end_of(tmp_path / "log") == shown
    assert end_of(tmp_path / "none") == "nothing"
