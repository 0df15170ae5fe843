"""Messages that make no sense are refused, and leave what a client keeps as it was."""

import numpy as np
import pytest

from fedeff.core.errors import ConfigError, ReplyError

WRONG = {
    "a cycle alone": ({"cycle": 1}, "has cycle alone"),
    "a round alone": ({"cycle_round": 1}, "has cycle-round alone"),
    "a negative cycle": ({"cycle": -1, "cycle_round": 0}, "cycle is -1"),
    "a true round": ({"cycle": 1, "cycle_round": True}, "cycle-round is True"),
    "versions without a cycle": ({"layer_versions": [1, 1]}, "layer-versions.*neither cycle"),
    "keep-sent without a cycle": ({"keep_sent": True}, "keep-sent.*neither cycle"),
    "corrects without a cycle": ({"corrects": [1]}, "corrects.*neither cycle"),
    "too few versions": (
        {"cycle": 1, "cycle_round": 0, "layer_versions": [1]},
        "lists 1 versions.* 2 layers",
    ),
    "versions as text": ({"cycle": 1, "cycle_round": 0, "layer_versions": "11"}, "layer-versions is '11'"),
    "rounds below 0": ({"cycle": 1, "cycle_round": 0, "corrects": [0, -1]}, r"corrects is \[0, -1\]"),
    "real rounds": ({"cycle": 1, "cycle_round": 0, "corrects": [0.5]}, r"corrects is \[0.5\]"),
    "a numeric flag": ({"keep_optimizer": 1}, "keep-optimizer is 1; it must be true or false"),
    "a misspelt reply": ({"reply_with": "weight"}, "did you mean 'weights'"),
    "a misspelt procedure": ({"procedure": "accumulated"}, "did you mean 'accumulate'"),
    "no cycle to accumulate in": ({"procedure": "accumulate"}, "send cycle and cycle-round"),
    "curvature in a cycle": ({"procedure": "curvature", "cycle": 1, "cycle_round": 0}, "keeps nothing"),
    "a coded gradient in a cycle": (
        {"procedure": "coded-gradient", "cycle": 1, "cycle_round": 0},
        "coded-gradient' keeps nothing",
    ),
    "a gradient without a code": ({"procedure": "coded-gradient"}, "0 workers, this is one of 10 clients"),
    "no iterations": ({"procedure": "curvature", "power_iterations": 0}, "power-iterations is 0"),
    "no movement": ({"procedure": "curvature", "reply_with": "displacement"}, "moves no weights"),
    "an unknown part": ({"layers_due": ["fc1.wieght[0:2]"]}, "did you mean 'fc1.weight'"),
    "rows that are not there": ({"layers_due": ["fc2.bias[0:11]"]}, "rows 0 to 11"),
}


@pytest.mark.parametrize(("config", "message"), WRONG.values(), ids=WRONG)
def test_wrong_messages_are_refused(config, message, client):
    with pytest.raises(ConfigError, match=message):
        client(client.start, server_round=1, **config)
    assert not client.context.state


@pytest.mark.parametrize(
    ("arrays_sent", "correction", "message"),
    [
        ({"fc3.bias": np.zeros(10, np.float32)}, None, "unknown array 'fc3.bias'"),
        ({"fc2.bias": np.zeros(9, np.float32)}, None, r"'fc2.bias' got float32\[9\]"),
        ({"fc2.bias[5:11]": np.zeros(6, np.float32)}, None, "rows 5 to 11"),
        ({}, {"fc2.bias": np.zeros(9, np.float32)}, r"correction 'fc2.bias' has shape \[9\]"),
    ],
)
def test_malformed_parts_are_refused_and_the_state_stays(arrays_sent, correction, message, client):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    before = client.state()
    config = {"corrects": []} if correction else {}
    with pytest.raises(ConfigError, match=message):
        client(arrays_sent, correction, server_round=2, cycle=1, cycle_round=1, **config)
    assert client.state() == before


def test_a_correction_needs_the_rounds_that_it_corrects(client):
    mean = {"fc2.bias": np.zeros(10, np.float32)}
    with pytest.raises(ConfigError, match="send corrects"):
        client(client.start, mean, server_round=1, cycle=1, cycle_round=0)
    with pytest.raises(ConfigError, match=r"correction.*neither cycle"):
        client(client.start, mean, server_round=1)


def test_a_round_that_diverges_leaves_the_state_of_the_round_before(client):
    client(client.start, server_round=1, cycle=1, cycle_round=0)
    before = client.state()
    broken = {"fc2.bias": np.full(10, np.nan, np.float32)}
    for procedure in ("train", "accumulate"):
        with pytest.raises(ReplyError, match="client 0 diverged in round 2"):
            client(broken, server_round=2, cycle=1, cycle_round=1, procedure=procedure)
        assert client.state() == before
