"""Rounds of random updates, as an estimator sees them."""

from collections.abc import Callable

import numpy as np
import pytest

from fedeff.core.layers import encode_record
from fedeff.strategies.missing import History, Layers, Mean, Past, Situation
from fedeff.strategies.weighted_sum import layout_of

MODEL = {"a.weight": np.zeros((2, 3)), "b.weight": np.zeros(4), "a.bias": np.zeros(2)}


@pytest.fixture(scope="session")
def layers() -> Layers:
    return Layers.of(layout_of(encode_record(MODEL)))


@pytest.fixture(scope="session")
def make_situation(layers) -> Callable[..., Situation]:
    """Round 5: clients 1 to `came` are in time, client 0 is missing since round 2; all drawn from a seed."""

    def make(seed: int = 0, came: int = 3, server_round: int = 5, since: int = 2) -> Situation:
        rng = np.random.default_rng(seed)

        def vector():
            return rng.normal(size=layers.size).astype(np.float32)

        here = {n: Past(server_round, vector(), float(n)) for n in range(1, came + 1)}
        history = History(32)
        history.latest = {0: Past(since, vector(), 5.0, in_time=False)}
        history.latest |= {n: Past(server_round - 1, vector(), float(n)) for n in here}
        for number in range(1, server_round + 1):
            history.means[number] = Mean(vector(), 40.0)
            history.models[number] = vector()
        weights = np.array([one.weight for one in here.values()])
        mean = np.average([one.update for one in here.values()], axis=0, weights=weights)
        mean_now = Mean(mean.astype(np.float32), float(weights.sum()))
        return Situation(server_round, layers, history.models[server_round], mean_now, here, (0,), history)

    return make
