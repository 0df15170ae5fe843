"""Gradients that clients gather over messages, and the curvature that they measure."""

import numpy as np
import pytest
from apps.keeping import KEYS, Client, arrays, wire

from fedeff.core.layers import encode_record
from fedeff.core.parts import take

# Accumulated gradients


def test_gradients_gather_until_their_layer_is_due(client, trainings):
    ask_for = {"procedure": "accumulate", "cycle": 1, "local_steps": 2}
    first = client(client.start, server_round=1, cycle_round=0, **ask_for)
    gradients = [arrays(first)]
    assert list(gradients[0]) == KEYS
    assert wire(first)[1]["num-steps"] == 2
    assert {wire(first)[1][f"agreement:{layer}"] for layer in ("fc1", "fc2")} == {1.0}
    for round, due in ((2, []), (3, []), (4, ["fc2.bias", "fc2.weight[1:4]"]), (5, KEYS)):
        other = Client(client.mode, client.ask, client.context_of)
        alone = other(client.start, server_round=round, cycle_round=0, **ask_for)
        gradients.append(arrays(alone))
        since = {"fc1": gradients[1:], "fc2": gradients[5 - (round == 5) :] if round == 5 else gradients[1:]}
        reply = client({}, server_round=round, cycle_round=round - 1, layers_due=due, **ask_for)
        assert list(arrays(reply)) == due
        for part, values in arrays(reply).items():
            gathered = [take(g, [part])[part] for g in since[part[:3]]]
            np.testing.assert_allclose(values, np.mean(gathered, axis=0), rtol=1e-5, atol=1e-7)
        for layer, own in since.items():
            keys = [key for key in KEYS if key.startswith(layer)]
            new = np.concatenate([own[-1][key].ravel() for key in keys]).astype(np.float64)
            old = sum(
                (np.concatenate([g[k].ravel() for k in keys]).astype(float) for g in own[:-1]), 0.0 * new
            )
            expected = old @ new / np.linalg.norm(old) / np.linalg.norm(new) if old.any() else 1.0
            assert wire(reply)[1][f"agreement:{layer}"] == pytest.approx(expected, abs=1e-6)
    assert "accumulated" not in client.state()
    assert client.state()["local-model"] == {k: a.data for k, a in encode_record(client.start).items()}
    assert set(trainings) == {"mean_gradient"}


def test_a_new_cycle_accumulates_anew(client):
    ask_for = {"procedure": "accumulate", "layers_due": []}
    client(client.start, server_round=1, cycle=1, cycle_round=0, **ask_for)
    assert "accumulated" in client.state()
    reply = client(client.start, server_round=2, cycle=2, cycle_round=0, **ask_for)
    assert wire(reply)[1]["agreement:fc1"] == 1.0
    assert client.state()["session"]["accumulated-counts"] == [1, 1]


def test_a_mini_batch_is_the_default(client):
    reply = client(client.start, server_round=1, cycle=1, cycle_round=0, procedure="accumulate")
    assert wire(reply)[1]["num-steps"] == 1


# Curvature


def test_curvature_is_a_metric_and_leaves_nothing_behind(client, trainings):
    reply = client(client.start, server_round=1, procedure="curvature", power_iterations=3)
    sent, metrics = wire(reply)
    assert sent is None
    assert metrics.keys() == {"num-examples", "partition-id", "hessian-lambda-max"}
    assert metrics["num-examples"] == 12
    assert 0 < metrics["hessian-lambda-max"] < 1000
    assert wire(client(client.start, server_round=1, procedure="curvature", power_iterations=3)) == wire(
        reply
    )
    longer = client(client.start, server_round=1, procedure="curvature", power_iterations=30)
    assert wire(longer)[1]["hessian-lambda-max"] > metrics["hessian-lambda-max"]
    assert not client.context.state
    assert trainings == []
