"""Prompt clients: how long a SuperNode waits, what a fork has for itself, and the command that says so."""

import ast
import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
from apps import forked
from hypothesis import given
from hypothesis import strategies as st

import fedeff
from fedeff.core.errors import ConfigError
from fedeff.core.flower_deployment import ClientRuntime
from fedeff.deployment.prompt_clients import IDLE, IdleWait, client_forks, prompt_supernode
from fedeff.deployment.prompt_supernode import main

RUNTIME = ClientRuntime("127.0.0.1:9", insecure=True, root_certificates=None, supernode_pid=os.getpid())


class Clock:
    def __init__(self):
        self.now_s, self.naps = 100.0, []

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds


def waiting(clock: Clock) -> IdleWait:
    return IdleWait(now_s=lambda: clock.now_s, sleep=clock.sleep)


def test_an_idle_node_asks_often_at_first_and_as_flowers_later():
    clock = Clock()
    wait = waiting(clock)
    while clock.now_s < 200.0:
        wait(3)
    assert clock.naps[:9] == [IDLE.shortest_s] * 9
    assert clock.naps == sorted(clock.naps)
    assert clock.naps[-1] == 3.0


def test_a_message_makes_it_ask_often_again():
    clock = Clock()
    wait = waiting(clock)
    for _ in range(100):
        wait(3)
    wait(0.5)  # for the reply
    wait(3)
    assert clock.naps[-3:] == [3.0, 0.02, IDLE.shortest_s]


@given(flowers_s=st.lists(st.sampled_from([3, 0.5]), max_size=60))
def test_it_never_waits_longer_than_flowers(flowers_s):
    clock = Clock()
    wait = waiting(clock)
    for seconds in flowers_s:
        wait(seconds)
    assert all(nap <= seconds for nap, seconds in zip(clock.naps, flowers_s, strict=True))


def test_the_command_takes_the_arguments_of_flowers():
    command = prompt_supernode(["flower-supernode", "--superlink", "127.0.0.1:8000"], ("torch", "app"))
    assert command[0] == sys.executable
    assert command[3:] == ["--preload", "torch,app", "--superlink", "127.0.0.1:8000"]
    assert "--preload" not in prompt_supernode(["flower-supernode"], ())


def test_what_is_not_its_own_is_handed_to_flowers_supernode(monkeypatch):
    told = {}

    def run_supernode(arguments, start_tasks, wait):
        told.update(arguments=arguments, preload=start_tasks.args[0], wait=wait)

    monkeypatch.setattr("fedeff.deployment.prompt_supernode.run_supernode", run_supernode)
    main(["--preload", "torch,app", "--idle-s", "0.5", "--insecure", "--node-config", "partition-id=0"])
    assert told["arguments"] == ["--insecure", "--node-config", "partition-id=0"]
    assert told["preload"] == ["torch", "app"]
    assert isinstance(told["wait"], IdleWait)


def test_a_refusal_is_one_line(monkeypatch):
    def refuse(*given):
        raise ConfigError("no")

    monkeypatch.setattr("fedeff.deployment.prompt_supernode.run_supernode", refuse)
    with pytest.raises(SystemExit, match=r"^error: no$"):
        main([])
    with pytest.raises(SystemExit, match=r"^error: a pace from"):
        main(["--idle-s", "0"])


def test_clients_are_processes_of_their_own_that_draw_their_own_numbers_and_find_what_was_preloaded(tmp_path):
    client_forks(["sqlite3"], RUNTIME)
    context = multiprocessing.get_context("forkserver")
    files = [tmp_path / "first", tmp_path / "second"]
    clients = [context.Process(target=forked.look, args=(file,)) for file in files]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)
    assert [client.exitcode for client in clients] == [0, 0]
    first, second = (json.loads(file.read_text()) for file in files)
    assert os.getpid() not in (first[0], second[0])
    assert [one == other for one, other in zip(first[:3], second[:3], strict=True)] == [False] * 3
    assert first[3]
    assert second[3]


def test_no_client_waits_for_scipy_that_does_not_need_it():
    """Every process of a client imports the whole built-in client; SciPy would be a second of each."""
    package = Path(fedeff.__file__).parent
    found = [
        (path.name, ast.unparse(node))
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "audit"  # a floor above the client, which cannot import it
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and " scipy" in ast.unparse(node)
    ]
    assert found == []
