"""Clients that keep their model between messages: every rule, by hand-made messages.

Each rule is told twice, to the plain loop through the ClientApp and to the vectorised block. What
a client should hold is computed beside it by one that keeps nothing.
"""

import pickle

import numpy as np
import pytest
from apps.keeping import KEYS, Client, arrays, assert_needs_full, assert_same, some, wire
from flwr.app import ConfigRecord, RecordDict

from fedeff.core.lists import NO_PART
from fedeff.core.parts import put, take

# The tag


def test_a_tag_changes_no_bit_of_what_is_trained_and_sent(client):
    plain = client(client.start, server_round=4)
    assert not client.context.state
    tagged = client(client.start, server_round=4, cycle=2, cycle_round=0)
    assert wire(tagged) == wire(plain)
    assert client.state()["local-model"] == dict(wire(plain)[0])
    assert client.state()["session"] == {"cycle": 2, "cycle-round": 0}


def test_the_local_model_goes_on_with_what_a_message_sets(client):
    local = arrays(client(client.start, server_round=1, cycle=1, cycle_round=0))
    parts = some(take(local, ["fc2.bias", "fc1.weight[3:9]"]), seed=1)
    due = ["fc2.weight[5:7]", "fc1.bias", "fc2.weight[0:5]"]
    reply = client(parts, server_round=2, cycle=1, cycle_round=1, layers_due=due)
    expected = client.trained(put(local, parts), server_round=2)
    assert_same(arrays(reply), take(expected, due))
    third = client({}, server_round=3, cycle=1, cycle_round=2)
    assert_same(arrays(third), client.trained(expected, server_round=3))


@pytest.mark.parametrize("nothing", [[NO_PART], []])
def test_metrics_alone_where_nothing_is_due(nothing, client):
    reply = client(client.start, server_round=1, cycle=1, cycle_round=0, layers_due=nothing)
    assert wire(reply)[0] == []
    assert wire(reply)[1]["num-steps"] == 2
    after = client({}, server_round=2, cycle=1, cycle_round=1)
    local = client.trained(client.start, server_round=1)
    assert_same(arrays(after), client.trained(local, server_round=2))


def test_a_message_without_arrays_goes_on_too(client):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    other = pickle.loads(pickle.dumps(client.context.state))
    expected = client({}, server_round=2, cycle=1, cycle_round=1)
    client.context.state = other
    message = client.ask({}, server_round=2, cycle=1, cycle_round=1)
    del message.content["arrays"]
    for key, values in arrays(client.app(message, client.context)).items():
        np.testing.assert_allclose(values, arrays(expected)[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("cycle", "cycle_round"),
    [(1, 2), (1, 3), (2, 1), (0, 1), (1, 0), (2, 0)],
)
def test_another_tag_needs_the_whole_model(cycle, cycle_round, client, trainings):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    if (cycle, cycle_round) == (1, 0):  # its own tag would be a repetition
        client({}, server_round=2, cycle=1, cycle_round=1)
    parts = take(client.start, ["fc1.weight", "fc1.bias"])
    assert_needs_full(client, trainings, parts, server_round=3, cycle=cycle, cycle_round=cycle_round)
    full = client(client.start, server_round=3, cycle=cycle, cycle_round=cycle_round)
    assert_same(arrays(full), client.trained(client.start, server_round=3))
    after = client({}, server_round=4, cycle=cycle, cycle_round=cycle_round + 1)
    assert_same(arrays(after), client.trained(arrays(full), server_round=4))


@pytest.mark.parametrize("lost", ["everything", "local-model", "session", "session-metrics"])
def test_lost_state_needs_the_whole_model(lost, client, trainings):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    if lost == "everything":
        client.context.state = RecordDict()
    else:
        del client.context.state[lost]
    assert_needs_full(client, trainings, {}, server_round=2, cycle=1, cycle_round=1)


def test_other_entries_of_the_state_are_left_alone(client):
    client.context.state["mine"] = ConfigRecord({"kept": True})
    client.context.state["sent-by-me"] = ConfigRecord({"kept": 2})
    for round in range(3):
        client(client.start, server_round=1, cycle=round, cycle_round=0, keep_sent=True)
    assert client.state()["mine"] == {"kept": True}
    assert client.state()["sent-by-me"] == {"kept": 2}


# Versions of layers


def test_layers_that_are_not_sent_must_have_the_servers_version(client, trainings):
    client(client.start, server_round=1, cycle=1, cycle_round=0, layer_versions=[4, 7])
    parts = take(client.start, ["fc1.bias[0:2]"])
    going_on = {"server_round": 2, "cycle": 1, "cycle_round": 1}
    for versions in ([5, 6], [5, 8]):
        assert_needs_full(client, trainings, parts, layer_versions=versions, **going_on)
    reply = client(parts, layer_versions=[5, 7], **going_on)
    expected = client.trained(put(client.trained(client.start, server_round=1), parts), server_round=2)
    assert_same(arrays(reply), expected)
    assert client.state()["session"]["layer-versions"] == [5, 7]
    going_on = {"server_round": 3, "cycle": 1, "cycle_round": 2}
    assert_needs_full(client, trainings, {}, layer_versions=[4, 7], **going_on)
    correction = {"fc1.weight": np.zeros_like(client.start["fc1.weight"])}
    reply = client({}, correction, corrects=[], layer_versions=[6, 7], **going_on)  # is sent, as a correction
    assert_same(arrays(reply), client.trained(expected, server_round=3))


def test_a_state_without_versions_does_not_fit_a_message_with_them(client, trainings):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    going_on = {"server_round": 2, "cycle": 1, "cycle_round": 1}
    parts = take(client.start, ["fc1.weight", "fc2.weight"])
    assert_needs_full(client, trainings, take(parts, ["fc1.weight"]), layer_versions=[1, 0], **going_on)
    assert "arrays" in client(parts, layer_versions=[1, 1], **going_on).content


# Repetitions

HOW = {
    "weights": {},
    "some": {"layers_due": ["fc2.bias", "fc1.weight[1:3]"]},
    "none": {"layers_due": [NO_PART]},
    "displacement": {"reply_with": "displacement"},
    "part of a displacement": {"reply_with": "displacement", "layers_due": ["fc2.weight[2:4]"]},
    "kept": {"keep_sent": True, "reply_with": "displacement"},
    "kept weights": {"keep_sent": True, "layers_due": ["fc2.bias"]},
    "momentum": {"keep_optimizer": True, "optimizer": "momentum", "momentum": 0.9},
    "gradients": {"procedure": "accumulate", "layers_due": ["fc1.weight", "fc1.bias"]},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_repeated_request_is_answered_from_the_state(how, client, trainings):
    rounds = [
        (client.start, {"server_round": 1, "cycle": 5, "cycle_round": 0, **how}),
        (some(take(client.start, ["fc1.bias"]), 2), {"server_round": 2, "cycle": 5, "cycle_round": 1, **how}),
        ({}, {"server_round": 3, "cycle": 5, "cycle_round": 2, **how}),
    ]
    once = Client(client.mode, client.ask, client.context_of)
    expected = [wire(once(parts, **config)) for parts, config in rounds]
    trainings.clear()
    for (parts, config), first in zip(rounds, expected, strict=True):
        assert wire(client(parts, **config)) == first
        before, calls = client.state(), len(trainings)
        for _ in range(2):
            assert wire(client(parts, **config)) == first
        assert len(trainings) == calls
        assert client.state() == before
    assert len(trainings) == 3


# What is sent


@pytest.mark.parametrize("tag", [{}, {"cycle": 1, "cycle_round": 0}], ids=["stateless", "in a cycle"])
def test_a_displacement_is_what_training_changed(tag, client):
    due = ["fc2.weight", "fc2.bias"]
    moved = client(client.start, server_round=1, reply_with="displacement", layers_due=due, **tag)
    after = client.trained(client.start, server_round=1)
    assert_same(arrays(moved), {key: after[key] - client.start[key] for key in due})
    if not tag:
        assert not client.context.state
        return
    parts = some(take(after, ["fc1.bias"]), seed=4)
    before = put(after, parts)
    moved = client(parts, server_round=2, reply_with="displacement", cycle=1, cycle_round=1)
    after = client.trained(before, server_round=2)
    assert_same(arrays(moved), {key: after[key] - before[key] for key in KEYS})


def test_a_client_that_keeps_nothing_may_send_rows(client):
    whole = client.trained(client.start, server_round=1)
    reply = client(client.start, server_round=1, layers_due=["fc2.bias[4:6]", "fc1.weight"])
    assert_same(arrays(reply), take(whole, ["fc1.weight", "fc2.bias[4:6]"]))
