"""A client's state outlives its SuperNode, and a round that is repeated begins from the state before it."""

import secrets
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.clients.durable_state import durable_state_mod
from fedeff.core.errors import ConfigError, StateError
from fedeff.core.flower import set_task_identity

RUN = "0123abcd"


class Node:
    """A SuperNode whose client multiplies what it keeps, so that order and number of its rounds show."""

    def __init__(self, folder: Path, partition: int = 0) -> None:
        set_task_identity(1)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        if not (key := folder / "state.key").exists():
            key.touch(mode=0o600)
            key.write_text(secrets.token_hex(32))
        self.config = {
            "partition-id": partition,
            "state-dir": str(folder / "state"),
            "state-key": str(key),
        }
        self.context = Context(1, 1, self.config, RecordDict(), {})

    def restart(self, attempt: int | None = None) -> None:
        """Lose what is in memory; with `attempt` the server's run goes on under that number of Flower's."""
        self.context = Context(attempt or self.context.run_id, 1, self.config, RecordDict(), {})

    def ask(self, server_round: int, kind: str = "train", run: str | None = RUN) -> float:
        config = {"server-round": server_round} | ({} if run is None else {"run": run})
        content = RecordDict({"config": ConfigRecord(config)})
        message = Message(content, dst_node_id=1, message_type=kind)
        reply = durable_state_mod(message, self.context, _train if kind == "train" else _look)
        return float(reply.content["metrics"]["value"])

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (Path(self.config["state-dir"]) / RUN).iterdir())


def _train(message: Message, context: Context) -> Message:
    values = context.state["kept"]["x"].numpy() if "kept" in context.state else np.ones(2)
    values = values * 1.5 + message.content["config"]["server-round"]
    context.state["kept"] = ArrayRecord({"x": Array(values)})
    context.state["beside"] = ConfigRecord({"list": [1, 2], "text": "a", "bytes": b"\x00", "flag": True})
    return _answer(message, float(values[0]))


def _look(message: Message, context: Context) -> Message:
    return _answer(message, float(context.state["kept"]["x"].numpy()[0]) if "kept" in context.state else 0.0)


def _answer(message: Message, value: float) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"value": value})}), reply_to=message)


def undisturbed(folder: Path, rounds: list[int]) -> list[float]:
    node = Node(folder)
    return [node.ask(one) for one in rounds]


def test_state_survives_a_restart_of_the_node(tmp_path):
    expected = undisturbed(tmp_path / "whole", [1, 2, 3])
    node = Node(tmp_path / "node")
    seen = []
    for server_round in (1, 2, 3):
        seen.append(node.ask(server_round))
        node.restart()
        assert node.ask(server_round, "evaluate") == seen[-1]
        node.restart()
    assert seen == expected
    assert len(set(seen)) == 3


@settings(max_examples=25)
@given(data=st.data())
def test_wherever_the_server_goes_back_to_the_answers_are_those_of_an_undisturbed_run(tmp_path_factory, data):
    """The client takes part in some rounds; the server has three checkpoints, some of them damaged."""
    folder = tmp_path_factory.mktemp("back")
    rounds = sorted(data.draw(st.sets(st.integers(1, 9), min_size=1)))
    expected = dict(zip(rounds, undisturbed(folder / "whole", rounds), strict=True))
    node, attempt, checkpoints, deaths = Node(folder / "node"), 1, [0], 0
    while (server_round := checkpoints[-1] + 1) <= 9:
        if server_round in expected:
            assert node.ask(server_round) == expected[server_round]
        event = data.draw(st.sampled_from(["on", "on", "node", "server"]))
        if event == "node":
            node.restart()
        if event != "server" or deaths == 4:  # else it dies before it writes the checkpoint
            checkpoints = [*checkpoints, server_round][-3:]
            continue
        deaths += 1
        damaged = data.draw(st.integers(0, 2))
        checkpoints = checkpoints[: len(checkpoints) - damaged] or [0]
        attempt += 1
        node.restart(attempt)


def test_only_the_last_four_rounds_and_three_runs_are_kept(tmp_path):
    node = Node(tmp_path)
    for server_round in range(1, 8):
        node.ask(server_round)
    assert node.files == [f"{one:06d}.state" for one in (4, 5, 6, 7)]
    for run in ("b", "c", "d"):
        node.restart()
        assert node.ask(1, run=run) == 2.5  # each begins anew
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["b", "c", "d"]


def test_a_message_that_changes_nothing_writes_nothing(tmp_path):
    node = Node(tmp_path)
    node.ask(1)
    before = (tmp_path / "state" / RUN / "000001.state").read_bytes()
    node.ask(2, "evaluate")
    assert node.files == ["000001.state"]
    assert (tmp_path / "state" / RUN / "000001.state").read_bytes() == before


def test_what_the_server_gave_up_is_forgotten(tmp_path):
    node = Node(tmp_path)
    for server_round in (1, 2, 3):
        node.ask(server_round)
    node.restart(attempt=2)
    node.ask(2)
    assert node.files == ["000001.state", "000002.state"]
    node.restart(attempt=3)
    assert node.ask(3) == undisturbed(tmp_path / "whole", [1, 2, 3])[-1]


def test_a_damaged_file_is_set_aside_and_an_older_one_taken(tmp_path, caplog):
    node = Node(tmp_path)
    first, _ = node.ask(1), node.ask(2)
    path = tmp_path / "state" / RUN / "000002.state"
    path.write_bytes(path.read_bytes()[:-1])
    node.restart()
    with caplog.at_level("WARNING", "flwr"):
        assert node.ask(2, "evaluate") == first
    assert node.files == ["000001.state", "000002.damaged"]
    assert "000002.damaged" in caplog.text


def test_a_state_under_another_key_stays_and_is_an_error(tmp_path):
    node = Node(tmp_path)
    node.ask(1)
    (tmp_path / "state.key").write_text("0" * 64)
    node.restart()
    with pytest.raises(StateError, match="another key"):
        node.ask(2)
    assert node.files == ["000001.state"]


def test_another_clients_state_is_none_of_ours(tmp_path):
    node = Node(tmp_path)
    node.ask(1)
    assert Node(tmp_path, partition=1).ask(2) == undisturbed(tmp_path / "whole", [2])[0]


def test_without_a_folder_or_a_round_nothing_is_kept(tmp_path):
    node = Node(tmp_path)
    config = ConfigRecord({"run": RUN})
    message = Message(RecordDict({"config": config}), dst_node_id=1, message_type="query")
    durable_state_mod(message, node.context, _look)
    node.config = {"partition-id": 0}
    node.restart()
    node.ask(1)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_run_that_says_no_name_is_known_by_flowers_number(tmp_path):
    node = Node(tmp_path)
    node.ask(1, run=None)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["flower-1"]


@pytest.mark.parametrize("run", ["../../elsewhere", "", "a" * 65])
def test_a_name_that_is_no_folders_is_refused(tmp_path, run):
    with pytest.raises(ConfigError, match="calls its run"):
        Node(tmp_path).ask(1, run=run)


def test_a_folder_without_a_key_is_refused(tmp_path):
    node = Node(tmp_path)
    del node.config["state-key"]
    node.restart()
    with pytest.raises(ConfigError, match="no state-key"):
        node.ask(1)
