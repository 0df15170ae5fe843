"""What clients keep of what they sent, and how a correction takes it back."""

import numpy as np
import pytest
from apps.keeping import KEYS, arrays, assert_needs_full, assert_same, some

from fedeff.core.lists import NO_ROUND
from fedeff.core.parts import put, take


def test_a_correction_takes_back_what_was_sent(client):
    """Two periods late: the means of rounds 0 and 1 come with rounds 2 and 3."""
    keep = {"reply_with": "displacement", "keep_sent": True, "cycle": 1}
    weights, sent = client.start, []
    means = [some({key: np.zeros_like(v) for key, v in weights.items()}, seed) for seed in range(2)]
    for round, corrects in enumerate([None, None, [0], [1]]):
        config = dict(keep, server_round=round, cycle_round=round)
        if corrects:
            config["corrects"] = corrects
        (late,) = corrects or [None]
        reply = arrays(client(weights if not round else {}, None if late is None else means[late], **config))
        if late is not None:
            weights = {
                key: (
                    values.astype(np.float64)
                    + (means[late][key].astype(np.float64) - sent[late][key].astype(np.float64))
                ).astype(np.float32)
                for key, values in weights.items()
            }
        after = client.trained(weights, server_round=round)
        assert_same(reply, {key: after[key] - weights[key] for key in KEYS})
        sent.append(reply)
        weights = after
    assert client.state()["session"]["sent-rounds"] == [2, 3]
    assert {name for name in client.state() if name.startswith("sent-")} == {"sent-2", "sent-3"}


def test_several_rounds_may_be_corrected_at_once_and_parts_need_not_be_alike(client):
    keep = {"reply_with": "displacement", "keep_sent": True, "cycle": 1}
    due = [["fc2.bias", "fc1.bias"], ["fc2.bias"]]
    sent = [
        arrays(client(client.start, server_round=0, cycle_round=0, layers_due=due[0], **keep)),
        arrays(client({}, server_round=1, cycle_round=1, layers_due=due[1], **keep)),
    ]
    local = client.trained(client.trained(client.start, server_round=0), server_round=1)
    correction = some(take(local, ["fc2.bias", "fc1.bias", "fc2.weight[0:3]"]), seed=7)
    parts = some(take(local, ["fc1.bias"]), seed=8)  # set first, then corrected
    wide = {key: values.astype(np.float64) for key, values in put(local, parts).items()}
    wide["fc2.bias"] += correction["fc2.bias"] - (sent[0]["fc2.bias"].astype(float) + sent[1]["fc2.bias"])
    wide["fc1.bias"] += correction["fc1.bias"] - sent[0]["fc1.bias"].astype(float)
    wide["fc2.weight"][:3] += correction["fc2.weight[0:3]"]
    expected = {key: values.astype(np.float32) for key, values in wide.items()}
    reply = client(parts, correction, server_round=2, cycle=1, cycle_round=2, corrects=[0, 1])
    assert_same(arrays(reply), client.trained(expected, server_round=2))
    assert "sent-rounds" not in client.state()["session"]
    assert not [name for name in client.state() if name.startswith("sent-")]


@pytest.mark.parametrize("none", [[NO_ROUND], []])
def test_a_client_that_sent_nothing_is_corrected_by_the_mean_alone(none, client):
    client(client.start, server_round=0, cycle=1, cycle_round=0, layers_due=[])
    local = client.trained(client.start, server_round=0)
    mean = {"fc2.bias": np.full(10, 0.5, np.float32)}
    reply = client({}, mean, server_round=1, cycle=1, cycle_round=1, corrects=none)
    expected = {**local, "fc2.bias": (local["fc2.bias"].astype(float) + 0.5).astype(np.float32)}
    assert_same(arrays(reply), client.trained(expected, server_round=1))


@pytest.mark.parametrize("whole", [True, False])
def test_a_correction_of_what_is_not_kept_needs_the_whole_model(whole, client, trainings):
    keep = {"reply_with": "displacement", "cycle": 1}
    client(client.start, server_round=0, cycle_round=0, keep_sent=True, **keep)
    client({}, server_round=1, cycle_round=1, **keep)  # not kept
    mean = {"fc2.bias": np.ones(10, np.float32)}
    arrays_sent = client.start if whole else {}
    assert_needs_full(
        client, trainings, arrays_sent, mean, server_round=2, cycle_round=2, corrects=[0, 1], **keep
    )
    client({}, mean, server_round=2, cycle_round=2, corrects=[0], **keep)
    assert_needs_full(
        client, trainings, arrays_sent, mean, server_round=3, cycle_round=3, corrects=[0], **keep
    )


def test_of_what_was_sent_before_the_whole_model_nothing_is_kept(client, trainings):
    """Who is refused in every round gets the whole model in each: what it sent must not pile up."""
    keep = {"keep_sent": True, "cycle": 1}
    for round in range(4):
        client(client.start, server_round=round, cycle_round=round, **keep)
        assert client.state()["session"]["sent-rounds"] == [round]
        assert {name for name in client.state() if name.startswith("sent-")} == {f"sent-{round}"}
    mean = {"fc2.bias": np.ones(10, np.float32)}
    going_on = {"server_round": 4, "cycle_round": 4, **keep}
    assert_needs_full(client, trainings, {}, mean, corrects=[2], **going_on)
    assert "arrays" in client({}, mean, corrects=[3], **going_on).content


def test_the_whole_model_may_bring_the_correction_of_what_was_sent(client):
    keep = {"reply_with": "displacement", "keep_sent": True, "cycle": 1}
    sent = arrays(client(client.start, server_round=0, cycle_round=0, **keep))
    mean = some({key: np.zeros_like(values) for key, values in sent.items()}, seed=1)
    reply = client(client.start, mean, server_round=1, cycle_round=1, corrects=[0], **keep)
    wide = {key: v + (mean[key].astype(float) - sent[key].astype(float)) for key, v in client.start.items()}
    before = {key: values.astype(np.float32) for key, values in wide.items()}
    after = client.trained(before, server_round=1)
    assert_same(arrays(reply), {key: after[key] - before[key] for key in before})
    assert client.state()["session"]["sent-rounds"] == [1]


def test_a_new_cycle_forgets_what_was_sent_in_the_old_one(client, trainings):
    client(client.start, server_round=0, cycle=1, cycle_round=0, keep_sent=True)
    mean = {"fc2.bias": np.ones(10, np.float32)}
    new = {"server_round": 1, "cycle": 2, "cycle_round": 1}
    assert_needs_full(client, trainings, client.start, mean, corrects=[0], **new)
    client(client.start, **new)
    assert_needs_full(client, trainings, {}, mean, server_round=2, cycle=2, cycle_round=2, corrects=[0])
    assert "sent-0" not in client.state()
