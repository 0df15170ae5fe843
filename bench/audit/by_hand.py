"""Views made from a torch network and rows, of what the built-in app has no data or no model for.

The client is fedeff's own training loop; what travels is its change in float32, with no codec.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bench.audit.tried import Shown
from fedeff.audit.truth import Truth
from fedeff.audit.view import Exchange, NDArray, Public, ServerView, Told
from fedeff.clients import LocalTraining, train_loop
from fedeff.clients.data import prepared
from fedeff.clients.weights import read_weights

__all__ = ["ONE_STEP", "seeded", "shown_of", "trained"]

ONE_STEP = LocalTraining(epochs=1, batch_size=1_000_000, learning_rate=0.05)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `make` gives, its weights drawn from the seed; torch's global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def shown_of(
    network: nn.Module, x: NDArray, y: NDArray, *, classes: int, training: LocalTraining = ONE_STEP
) -> Shown:
    """What a server sees of a client that trained the network on these rows, one exchange."""
    fresh, before = copy.deepcopy(network), read_weights(network)
    samples, rng = prepared(x, y, "cpu"), np.random.default_rng(0)
    after = train_loop(copy.deepcopy(network), before, samples, training, rng).arrays
    told = {
        key: Told(after[key].astype(np.float64) - weights.astype(np.float64))
        for key, weights in before.items()
    }
    text = x.dtype.kind in "iu"
    public = Public(
        lambda: copy.deepcopy(fresh),
        "next-character" if text else "classify",
        classes,
        x.shape[1:],
        highest=classes - 1.0 if text else 1.0,
    )
    exchange = Exchange(1, before, told, training, len(y))
    return Shown(ServerView(public, (exchange,)), Truth(x if text else x.astype(np.float64), y))


def trained(network: nn.Module, x: NDArray, y: NDArray, training: LocalTraining, seed: int) -> nn.Module:
    """The network after this training on these rows."""
    network = copy.deepcopy(network)
    rng = np.random.default_rng(seed)
    after = train_loop(network, read_weights(network), prepared(x, y, "cpu"), training, rng).arrays
    network.load_state_dict({key: torch.from_numpy(np.array(values)) for key, values in after.items()})
    return network
