"""Moments of an optimiser that clients keep from message to message."""

import numpy as np
import pytest
from apps.keeping import arrays, assert_same


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("cycles", [True, False])
def test_moments_are_kept_across_messages_and_cycles(cycles, optimizer, client):
    """The second round differs from one that begins at zero, and equals the loop with the moments."""
    rule = {"optimizer": optimizer, "keep_optimizer": True}
    rule |= {"momentum": 0.9} if optimizer == "momentum" else {}
    tags = [{"cycle": cycle, "cycle_round": 0} if cycles else {} for cycle in range(2)]
    first = client(client.start, server_round=1, **rule, **tags[0])
    assert client.state()["session"]["optimizer-steps"] == 2
    second = client(arrays(first), server_round=2, **rule, **tags[1])
    assert client.state()["session"]["optimizer-steps"] == 4
    assert client.state()["session"]["optimizer"] == optimizer
    moments = [name for name in client.state() if name.startswith("optimizer-")]
    assert len(moments) == {"sgd": 0, "momentum": 1}.get(optimizer, 2)
    rule.pop("keep_optimizer")
    anew = client.trained(arrays(first), server_round=2, **rule)
    same = all(np.array_equal(values, anew[key]) for key, values in arrays(second).items())
    assert same == (optimizer == "sgd")


def test_moments_stay_where_a_message_does_not_ask_for_them(client):
    rule = {"optimizer": "adam", "cycle": 1}
    client(client.start, server_round=1, cycle_round=0, keep_optimizer=True, **rule)
    before = client.state()
    client({}, server_round=2, cycle_round=1, **rule)
    after = client.state()
    assert after["optimizer-0"] == before["optimizer-0"]
    assert after["session"]["optimizer-steps"] == 2


def test_another_optimizers_moments_are_not_used(client):
    client(client.start, server_round=1, optimizer="adam", keep_optimizer=True)
    rule = {"server_round": 2, "optimizer": "adamw"}
    reply = client(client.start, keep_optimizer=True, **rule)
    assert_same(arrays(reply), client.trained(client.start, **rule))
    assert client.state()["session"]["optimizer-steps"] == 2
