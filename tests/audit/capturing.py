"""Small captures, and what a client would have told, computed without anything of the capture's."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.app.client import training_of
from fedeff.app.settings import Settings
from fedeff.app.workload import client_model, dataset_of, shares_of
from fedeff.audit.view import Exchange
from fedeff.clients.accumulate import mean_gradient
from fedeff.clients.data import Samples, prepared
from fedeff.clients.loop import train_loop
from fedeff.core.rng import generator

CLIENTS = 4


def small(**changes: Any) -> Settings:
    """A few steps of a few clients on digits; settings of strategies as `own`, a mapping."""
    own = tuple(changes.pop("own", {}).items())
    given = {"dataset": "digits", "model": "mlp", "partition": "iid", "cohort": CLIENTS}
    return Settings(**{**given, "local_steps": 2, "batch_size": 4, **changes}, own=own)


def samples_of(settings: Settings, partition: int, clients: int = CLIENTS) -> Samples:
    rows = shares_of(settings, clients).train[partition]
    return prepared(*dataset_of(settings).train.batch(rows), "cpu")


def retrained(settings: Settings, partition: int, exchange: Exchange) -> dict[str, Any]:
    """What training changes from the exchange's weights, by the client's own loop on its own rows."""
    rng = generator(settings.seed, purpose="batches", round=exchange.server_round, client=partition)
    work = (client_model(settings), exchange.weights, samples_of(settings, partition), exchange.training)
    after = train_loop(*work, rng).arrays
    return {key: after[key].astype(np.float64) - exchange.weights[key] for key in after}


def gathered(settings: Settings, partition: int, exchange: Exchange, rounds: range) -> dict[str, Any]:
    """The mean over rounds of the gradient of each round's batch at the exchange's weights."""
    samples, training = samples_of(settings, partition), training_of(settings)
    found = []
    for one in rounds:
        rng = generator(settings.seed, purpose="batches", round=one, client=partition)
        work = (client_model(settings), exchange.weights, samples, replace(training, steps=2))
        found.append(mean_gradient(*work, rng).arrays)
    return {key: np.mean([one[key] for one in found], axis=0) for key in found[0]}


def gradients(exchange: Exchange, network: torch.nn.Module, inputs: Any, labels: Any) -> dict[str, Any]:
    """The gradient by torch of the mean cross-entropy of these rows at the exchange's weights."""
    network.load_state_dict({key: torch.tensor(values) for key, values in exchange.weights.items()})
    loss = F.cross_entropy(network(torch.tensor(inputs)), torch.tensor(labels))
    keys, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return {key: one.numpy().astype(np.float64) for key, one in zip(keys, found, strict=True)}


def check(exchange: Exchange, expected: dict[str, Any], *, atol: float = 2e-7) -> None:
    """What is known without noise is what is expected, up to the float32 that travels."""
    for key, one in exchange.told.items():
        wrong = np.abs(one.values - expected[key])[one.mask]
        assert wrong.max(initial=0.0) <= atol, f"{key}: off by {wrong.max()}"
