"""Clients that keep their model in a block, in other runtimes, and with buffers."""

import numpy as np
import torch
from apps.keeping import KEYS, Client, arrays, assert_same, data, wire
from flwr.app import Message
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

import fedeff.clients.app as app_module
from fedeff.clients import LocalTraining, client_app
from fedeff.core.errors import ConfigError, DataError
from fedeff.core.layers import decode_record
from fedeff.core.parts import take


def test_a_block_of_all_kinds_answers_each_client_as_if_alone(ask, context_of, trainings):
    def clients():
        made = [Client("always", ask, context_of, partition) for partition in (0, 1, 2, 3, 0, 1, 4, 2)]
        for one in made[:4]:
            one(one.start, server_round=1, cycle=1, cycle_round=0)
        return made

    going_on = {"server_round": 2, "cycle": 1, "cycle_round": 1}
    start = clients()[0].start
    messages = [
        ask({}, **going_on),  # goes on
        ask({}, server_round=1, cycle=1, cycle_round=0),  # repeats
        ask({}, **{**going_on, "cycle": 2}),  # does not fit
        ask({}, procedure="accumulate", **going_on),
        ask(start, server_round=2),  # keeps nothing
        ask(start, server_round=2, optimizer="adam", keep_optimizer=True),
        ask(start, **going_on),  # has no samples
        ask(start, layers_due=["nothing"], **going_on),
    ]
    alone = []
    for one, message in zip(clients(), messages, strict=True):
        alone.extend(one.app.run_block([message], [one.context]))
    together = clients()
    trainings.clear()
    results = together[0].app.run_block(messages, [one.context for one in together])
    assert [type(result) for result in results] == [Message] * 6 + [DataError, ConfigError]
    assert sorted(trainings) == ["mean_gradient", "train_block", "train_block"]  # sgd, adam
    for number, (one, other) in enumerate(zip(alone, results, strict=True)):
        if isinstance(other, Exception):
            assert str(one) == str(other)
        elif "arrays" not in other.content:
            assert wire(one) == wire(other), number
        else:
            for key, values in arrays(one).items():
                np.testing.assert_allclose(arrays(other)[key], values, rtol=0, atol=1e-5)
    assert "need-full" in results[2].content["metrics"]
    assert [bool(one.context.state) for one in together] == [True] * 4 + [False, True, False, False]


def test_a_block_that_fails_goes_by_the_loop_with_the_same_state(ask, context_of, monkeypatch):
    def fails(*_):
        raise RuntimeError("no vectors today")

    monkeypatch.setattr(app_module, "train_block", fails)
    pairs = [Client("auto", ask, context_of, partition) for partition in (0, 1)]
    replies = []
    for round, parts in enumerate([pairs[0].start, {}]):
        messages = [ask(parts, server_round=round, cycle=1, cycle_round=round) for _ in pairs]
        replies = pairs[0].app.run_block(messages, [one.context for one in pairs])
    loop = Client("never", ask, context_of)
    loop(loop.start, server_round=0, cycle=1, cycle_round=0)
    assert wire(replies[0]) == wire(loop({}, server_round=1, cycle=1, cycle_round=1))


def test_a_block_and_the_loop_go_on_alike(ask, context_of):
    rules = {"optimizer": "adam", "learning_rate": 0.001, "keep_optimizer": True, "keep_sent": True}
    loop, block = (Client(mode, ask, context_of) for mode in ("never", "always"))
    for round in range(3):
        parts = loop.start if not round else {}
        one, other = (
            arrays(client(parts, server_round=round, cycle=1, cycle_round=round, **rules))
            for client in (loop, block)
        )
        for key in KEYS:
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-5)


def test_the_state_survives_flowers_own_serialisation(ask, context_of):
    client = Client("never", ask, context_of)
    rules = {"optimizer": "momentum", "momentum": 0.5, "keep_optimizer": True, "keep_sent": True}
    client(client.start, server_round=1, cycle=1, cycle_round=0, layer_versions=[1, 2], **rules)
    before = client.state()
    client.context.state = recorddict_from_proto(recorddict_to_proto(client.context.state))
    assert client.state() == before
    assert "arrays" in client({}, server_round=2, cycle=1, cycle_round=1, layer_versions=[1, 2]).content


def test_buffers_are_part_of_the_local_model(ask, context_of):
    """A model with running statistics goes by the loop; they travel and continue with their layer."""

    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
        )

    app, context = client_app(model, data, LocalTraining(learning_rate=0.1)), context_of(0)
    start = {key: values.numpy().copy() for key, values in model().state_dict().items()}
    app(ask(start, server_round=1, cycle=1, cycle_round=0), context)
    moved = app(ask({}, server_round=2, cycle=1, cycle_round=1, reply_with="displacement"), context)
    assert arrays(moved)["2.num_batches_tracked"] == 2
    local = decode_record(context.state["local-model"])
    assert local["2.num_batches_tracked"] == 4
    gathered = app(ask({}, server_round=3, cycle=1, cycle_round=2, procedure="accumulate"), context)
    buffers = ["2.running_mean", "2.running_var", "2.num_batches_tracked"]
    values = take(arrays(gathered), buffers)
    assert values["2.num_batches_tracked"] == 5
    assert not any(np.array_equal(values[key], local[key]) for key in buffers)
    assert arrays(gathered)["2.weight"].any()
    assert_same(decode_record(context.state["local-model"]), {**local, **values})
    told = {name for name in gathered.content["metrics"] if name.startswith("value:")}
    assert told == {f"value:{key}" for key in buffers}
