"""Injected faults, each counted: what dies, what the run does about it, what stays the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from apps import arithmetic
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg

from fedeff import errors
from fedeff.simulation import SimulationResult, run_simulation

CLIENTS = 6


def run(rounds: int = 2, **options: object) -> SimulationResult:
    server = arithmetic.server_app(lambda: FedAvg(fraction_evaluate=0.0), rounds)
    return run_simulation(server, arithmetic.client_app, CLIENTS, seed=1, **options)


def weight(result: SimulationResult) -> np.ndarray:
    return result.context.state["arrays"]["weight"].numpy()


def answers(run_config: dict[str, str], **options: object) -> tuple[list[Message], SimulationResult]:
    replies: list[Message] = []

    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": arithmetic.start_arrays(), "config": ConfigRecord()})
        messages = [Message(content, node, MessageType.TRAIN) for node in grid.get_node_ids()]
        replies.extend(grid.send_and_receive(messages))

    result = run_simulation(
        arithmetic.driver_app(main), arithmetic.client_app, CLIENTS, run_config=run_config, **options
    )
    return replies, result


@pytest.mark.parametrize("block_size", [1, 3, 6])
def test_only_the_client_that_ends_its_process_gets_an_error(cluster: None, block_size: int) -> None:
    replies, result = answers({"fault-2": "exit"}, num_actors=2, block_size=block_size)
    assert [reply.has_error() for reply in replies] == [p == 2 for p in range(CLIENTS)]
    assert "engine='inline'" in str(replies[2].error.reason)
    assert result.worker_deaths == 2, "once in its block, once alone"


def test_an_actor_killed_in_mid_round_changes_nothing(cluster: None, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    config = {"fault-4": "kill-once", "marker": str(marker)}
    survived = run(run_config=config, num_actors=2, block_size=2)
    assert marker.exists()
    assert survived.worker_deaths == 1
    assert weight(survived).tobytes() == weight(run(engine="inline")).tobytes()


def test_state_is_as_if_the_killed_attempt_had_not_been(cluster: None, tmp_path: Path) -> None:
    replies, result = answers(
        {"fault-1": "kill-once", "marker": str(tmp_path / "killed")}, num_actors=1, block_size=6
    )
    assert result.worker_deaths == 1
    assert [reply.content["metrics"]["trained"] for reply in replies] == [1] * CLIENTS


def test_a_raising_client_is_left_out_by_flowers_fedavg(cluster: None) -> None:
    result = run(run_config={"fault-3": "raise"}, num_actors=2)
    weights = np.array([p + 1 for p in range(CLIENTS) if p != 3])
    step = (weights * weights / 8).sum() / weights.sum()
    np.testing.assert_allclose(result.context.state["arrays"]["bias"].numpy(), 2 * step, rtol=1e-6)


def test_other_keys_stop_flowers_fedavg_with_its_own_error(cluster: None) -> None:
    with pytest.raises(InconsistentMessageReplies, match="same keys"):
        run(run_config={"fault-3": "other-keys"}, num_actors=2)


def test_nan_reaches_a_stock_strategy_as_it_would_in_flower(cluster: None) -> None:
    assert np.isnan(weight(run(run_config={"fault-0": "nan"}, num_actors=2))).all()


def test_a_full_state_directory_is_one_clear_error(cluster: None, tmp_path: Path) -> None:
    from fedeff.core.state import StateStore

    full = Path("/dev/full")
    store = StateStore(tmp_path, memory_bytes=0)
    if not full.exists():
        pytest.skip("no /dev/full here")
    for serial in range(1, 40):  # every file that the store will want to write is a full disk
        for partition in range(CLIENTS):
            (tmp_path / f"{partition}.{serial}.state.tmp").symlink_to(full)
    with pytest.raises(errors.StateError, match="No space left on device; free some space"):
        run(state_dir=store, num_actors=1)
    assert list(tmp_path.glob("*.state")) == []


def test_a_client_app_that_cannot_be_loaded_says_so(cluster: None) -> None:
    class Unloadable:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return __import__, ("no_such_module_here",)

    from flwr.clientapp import ClientApp

    app = ClientApp()
    app.extra = Unloadable()  # type: ignore[attr-defined]
    with pytest.raises(errors.EngineError, match="no_such_module_here"):
        run_simulation(arithmetic.driver_app(lambda g, c: None), app, 2, num_actors=1)


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, as a background job inherits it
sys.path[:0] = {path!r}
from apps import arithmetic
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from fedeff.simulation import run_simulation

def main(grid, context):
    print("started", flush=True)
    content = RecordDict({{"arrays": arithmetic.start_arrays(), "config": ConfigRecord()}})
    while True:
        grid.send_and_receive([Message(content, n, MessageType.TRAIN) for n in grid.get_node_ids()])

run_simulation(arithmetic.driver_app(main), arithmetic.client_app, 4, num_actors=1)
"""


def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def too_slow(**settings: object) -> None:
        calls.append(settings)
        raise Exception("The current node timed out\nduring startup.")  # the class that Ray raises

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    said = r"cannot start Ray: The current node timed out during startup\.; .*engine='inline'"
    with pytest.raises(errors.EngineError, match=said):
        run()
    assert len(calls) == 1


def test_ctrl_c_ends_the_run_and_every_process_of_it(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(SLEEPER.format(path=[p for p in sys.path if p]))
    # own session, so that the interrupt reaches exactly this run, as a terminal would send it
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"started\n"
        time.sleep(0.5)  # the interrupt should come in mid-round
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in error
    assert not _processes_of(process.pid)


def _processes_of(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found
