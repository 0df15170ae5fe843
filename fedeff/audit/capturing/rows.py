"""Which rows of its data a client trained on in a round, and what all clients hold."""

import math

import numpy as np

from fedeff.app.settings import Settings
from fedeff.app.workload import client_model, dataset_of, shares_of
from fedeff.audit.truth import Truth
from fedeff.audit.view import NDArray
from fedeff.clients import LocalTraining
from fedeff.clients.data import prepared
from fedeff.clients.loop import has_dropout
from fedeff.clients.training import batches
from fedeff.core.rng import generator

__all__ = ["Rows", "joined"]


class Rows:
    """The rows of the clients of resolved settings, and those that each met in a round."""

    def __init__(self, settings: Settings, clients: int) -> None:
        self._settings, self._clients = settings, clients
        self._drops: bool | None = None

    def met(self, partition: int, server_round: int, training: LocalTraining) -> tuple[int, ...]:
        """The places among a client's rows of those whose gradients were taken, ascending.

        Drawn as the client draws them: a later pass over its rows meets none that the first did not.
        """
        held = len(shares_of(self._settings, self._clients).train[partition])
        if self._drops is None:
            self._drops = has_dropout(client_model(self._settings))
        rng = generator(self._settings.seed, purpose="batches", round=server_round, client=partition)
        if self._drops:
            rng.integers(2**63)  # the seed of dropout is drawn before the batches are
        steps = min(training.step_count(held), math.ceil(held / training.batch_size))
        plan = batches(held, training, rng)
        return tuple(
            sorted({int(row) for _, batch in zip(range(steps), plan, strict=False) for row in batch})
        )

    def truth(self, partition: int, places: tuple[int, ...]) -> Truth:
        """These of a client's rows, as its model gets them."""
        numbers = np.asarray(shares_of(self._settings, self._clients).train[partition])[list(places)]
        samples = prepared(*dataset_of(self._settings).train.batch(numbers), "cpu")
        return Truth(samples.x.numpy().copy(), samples.y.numpy().copy())


def joined(truths: list[Truth]) -> Truth:
    """The rows of all."""
    inputs: list[NDArray] = [one.inputs for one in truths]
    return Truth(np.concatenate(inputs), np.concatenate([one.labels for one in truths]))
