"""What the server of anyone's Flower app sees, by a tap around the app as it is."""

import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.audit.capturing.foreign import capture_foreign
from fedeff.audit.truth import Truth
from fedeff.audit.view import Public
from fedeff.clients import LocalTraining
from fedeff.core.errors import AppError, AuditError

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
    rounds = 4
    noise = 0.0
    keys = "whole"
"""
SERVER = """
    import torch
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    app = ServerApp()

    @app.main()
    def main(grid, context):
        torch.manual_seed(0)
        model = ArrayRecord(torch.nn.Linear(5, 3).state_dict())
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
        strategy.start(grid=grid, initial_arrays=model, num_rounds=context.run_config["rounds"])
"""
CLIENT = """
    import numpy as np
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, context):
        rng = np.random.default_rng(context.node_config["partition-id"])
        x, y = torch.tensor(rng.random((4, 5), np.float32)), torch.tensor(rng.integers(0, 3, 4))
        model = torch.nn.Linear(5, 3)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        torch.nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for one in model.parameters():
                one -= 0.1 * one.grad
                one += context.run_config["noise"] * torch.tensor(rng.normal(size=one.shape), dtype=one.dtype)
        state = dict(model.state_dict())
        if context.run_config["keys"] != "whole":
            state.pop("bias")
        metrics = MetricRecord({"num-examples": 4, "loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)
"""
PUBLIC = Public(lambda: nn.Linear(5, 3), "classify", 3, (5,))
TRAINING = LocalTraining(steps=1, batch_size=4, learning_rate=0.1)


def rows(partition: int, server_round: int) -> Truth:
    rng = np.random.default_rng(partition)
    return Truth(rng.random((4, 5), np.float32), rng.integers(0, 3, 4))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs_audited")
    package = folder / "theirs_audited"
    package.mkdir()
    (folder / "pyproject.toml").write_text(textwrap.dedent(PROJECT).format(package=package.name))
    for name, text in (("__init__", ""), ("server", SERVER), ("client", CLIENT)):
        (package / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def gradient(exchange, truth):
    weights = {key: torch.tensor(values, requires_grad=True) for key, values in exchange.weights.items()}
    logits = F.linear(torch.tensor(truth.inputs), weights["weight"], weights["bias"])
    loss = F.cross_entropy(logits, torch.tensor(truth.labels))
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def test_an_app_of_others_tells_its_clients_gradients(theirs):
    shown = capture_foreign(theirs, PUBLIC, rows, TRAINING, 3, rounds=2, after_round=1, seed=0)
    assert [one.partition for one in shown] == [0, 1, 2]
    for one in shown:
        assert [exchange.server_round for exchange in one.view.exchanges] == [2, 3]
        assert one.view.same_rows
        assert len(one.truth) == 4
        for exchange in one.view.exchanges:
            assert (exchange.examples, exchange.rows, exchange.steps) == (4, 4, 1)
            for key, found in gradient(exchange, one.truth).items():
                np.testing.assert_allclose(exchange.told[key].values, -0.1 * found.numpy(), atol=1e-7)


def test_what_its_mods_or_clients_do_to_updates_is_in_the_view(theirs):
    options = {"victims": [1], "overrides": {"noise": 0.5}, "seed": 0}
    (one,) = capture_foreign(theirs, PUBLIC, rows, TRAINING, 3, **options)
    found = gradient(one.view.first, one.truth)["weight"].numpy()
    assert np.std(one.view.first.told["weight"].values + 0.1 * found) > 0.2


def test_an_app_that_sends_something_else_is_refused(theirs, tmp_path):
    with pytest.raises(AuditError, match="the app sends whole models"):
        capture_foreign(theirs, PUBLIC, rows, TRAINING, 3, overrides={"keys": "some", "rounds": 1})
    other = Public(lambda: nn.Linear(5, 4), "classify", 4, (5,))
    with pytest.raises(AuditError, match=r"sends array 'weight' of shape \(3, 5\), the network has \(4, 5\)"):
        capture_foreign(theirs, other, rows, TRAINING, 3)
    with pytest.raises(AppError):
        capture_foreign(tmp_path, PUBLIC, rows, TRAINING, 3)
