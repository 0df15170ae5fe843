"""Anyone's Flower app folder: run as it is, recorded by its Grid, refused with the reason."""

import textwrap
from contextlib import nullcontext

import pytest

from fedeff.app.foreign import ForeignApp, is_built_in, simulate_foreign
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.core.errors import AppError, ConfigError

PROJECT = """
    [project]
    name = "theirs"
    version = "1.0.0"
    [tool.flwr.app]
    publisher = "them"
    [tool.flwr.app.components]
    serverapp = "{package}.server:app"
    clientapp = "{package}.client:app"
    [tool.flwr.app.config]
    num-server-rounds = 3
    fail = false
"""
SERVER = """
    import numpy as np
    from flwr.app import ArrayRecord, Array
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    app = ServerApp()

    @app.main()
    def main(grid, context):
        model = ArrayRecord({"w": Array(np.zeros(1000, np.float32))})
        rounds = context.run_config["num-server-rounds"]
        result = FedAvg(fraction_evaluate=1.0).start(grid=grid, initial_arrays=model, num_rounds=rounds)
        if context.run_config["fail"]:
            raise RuntimeError("their bug")
"""
CLIENT = """
    from flwr.app import Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, context):
        metrics = MetricRecord({"num-examples": 5, "loss": 0.5})
        return Message(RecordDict({"arrays": message.content["arrays"], "m": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        accuracy = 0.1 * context.node_config["partition-id"]
        metrics = MetricRecord({"num-examples": 5, "accuracy": accuracy})
        return Message(RecordDict({"m": metrics}), reply_to=message)
"""


@pytest.fixture
def their_app(tmp_path, request, monkeypatch):
    """A new app folder whose package has a name of its own, since modules stay imported."""
    package = f"theirs_{abs(hash(request.node.name))}"
    folder = tmp_path / "theirs"
    (folder / package).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(textwrap.dedent(PROJECT.format(package=package)))
    for name, text in (("__init__", ""), ("server", SERVER), ("client", CLIENT)):
        (folder / package / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return folder


def test_their_app_runs_unchanged_and_is_recorded(tmp_path, their_app):
    app = ForeignApp.load(their_app, {"num-server-rounds": 2})
    told = []
    folder = simulate_foreign(
        app, Runtime(clients=4, engine="inline"), tmp_path / "run", seed=3, on_round=told.append
    )
    rounds = folder.rounds()
    assert told == list(rounds)
    assert app.rounds == 2
    assert [record.server_round for record in rounds] == [1, 2]
    for record in rounds:
        assert (record.cohort, record.arrived, record.evaluate_arrived) == (4, 4, 4)
        assert record.participants == (0, 1, 2, 3)
        assert (record.uplink_bytes, record.downlink_bytes) == (4 * 4128, 8 * 4128)
        assert record.evaluate_metrics["accuracy"] == pytest.approx(0.15)
        assert record.worst_tenth == {"accuracy": 0.0}
        assert record.accuracy is None
    summary = folder.summary()
    assert (summary.status, summary.strategy, summary.seed, summary.clients) == ("finished", "theirs", 3, 4)
    assert folder.config()["config"] == {"num-server-rounds": 2, "fail": False}
    assert folder.report_file.exists()


ASYNCHRONOUS = """
    import numpy as np
    from flwr.app import Array, ArrayRecord, Message, RecordDict
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid, context):
        content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(1000, np.float32))})})
        sent = [Message(content, node, "train", group_id="1") for node in grid.get_node_ids()]
        ids = list(grid.push_messages(sent))
        arrived = []
        while len(arrived) < 1:
            arrived += grid.pull_messages(ids[:1])
        if context.run_config["fail"]:
            raise RuntimeError("their bug")
"""


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("fail", [False, True])
def test_what_their_app_leaves_under_way_is_missing_in_its_record(tmp_path, their_app, fail):
    (server,) = their_app.glob("*/server.py")
    server.write_text(textwrap.dedent(ASYNCHRONOUS))
    app = ForeignApp.load(their_app, {"fail": fail})
    with pytest.raises(RuntimeError) if fail else nullcontext():
        simulate_foreign(app, Runtime(clients=4, engine="inline"), tmp_path / "run")
    (record,) = RunFolder.open(tmp_path / "run").rounds()
    assert (record.cohort, record.arrived, record.missing) == (4, 1, 3)
    assert (record.downlink_bytes, record.uplink_bytes) == (4 * 4128, 4128)


@pytest.mark.usefixtures("no_report")
def test_their_bug_is_theirs_and_what_was_seen_is_kept(tmp_path, their_app):
    app = ForeignApp.load(their_app, {"fail": True})

    with pytest.raises(RuntimeError, match="their bug"):
        simulate_foreign(app, Runtime(clients=2, engine="inline"), tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert len(folder.rounds()) == 3
    assert (folder.summary().status, folder.summary().reason) == ("failed", "RuntimeError: their bug")


def test_settings_that_their_app_lacks_are_refused(their_app):
    with pytest.raises(ConfigError, match="did you mean 'num-server-rounds'"):
        ForeignApp.load(their_app, {"num-rounds": 2})
    with pytest.raises(ConfigError, match="keeps its evaluations to itself"):
        ForeignApp.load(their_app, {"target-accuracy": 0.9})


def refused(folder):
    with pytest.raises(AppError) as error:
        ForeignApp.load(folder, {})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_that_is_no_app_is_refused_in_one_line(tmp_path, their_app):
    assert "is not a Flower app" in refused(tmp_path)
    project = their_app / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace("[tool.flwr.app.components]", "[tool.other]"))
    assert "components" in refused(their_app)
    project.write_text(text.replace(".server:app", ".server:nothing"))
    assert "nothing" in refused(their_app)
    project.write_text(text.replace(".server:app", ".client:app"))
    assert "expected a ServerApp" in refused(their_app)
    project.write_text(text.replace(".server:app", ".absent:app"))
    assert "absent" in refused(their_app)


def test_the_repository_itself_is_the_built_in_app(their_app, request):
    assert is_built_in(request.config.rootpath)
    assert not is_built_in(their_app)
