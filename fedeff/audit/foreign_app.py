"""An audit of a Flower app of others: what the app does not say comes from whoever knows it."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.audit.capturing.capture import Captured
from fedeff.audit.capturing.foreign import RowsOf, capture_foreign
from fedeff.audit.judging.judge import PublicRows
from fedeff.audit.truth import Truth
from fedeff.audit.victims import Victim
from fedeff.audit.view import Exchange, Public, ServerView, Told
from fedeff.clients import LocalTraining
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.rng import generator

__all__ = ["AppDescription", "described", "foreign_controls", "foreign_victims"]

Value = bool | int | float | str


@dataclass(frozen=True, eq=False)
class AppDescription:
    """What an audit has to know of an app: its network and task, a client's training, the truth, other rows.

    `rows_of(partition, server_round)` gives the rows that a client trained on, `others` rows of the same kind
    that nobody trained on, such as a test set: guesses and decoys are drawn from them.
    """

    public: Public
    training: LocalTraining
    rows_of: RowsOf
    others: Truth

    @property
    def public_rows(self) -> PublicRows:
        """The other rows, as guesses and decoys are drawn from."""
        return PublicRows(self.others.inputs, self.others.labels)


def described(reference: str, folder: Path) -> AppDescription:
    """What `module:callable` says of the app in a folder, whose modules may be imported.

    Raises:
        ConfigError: if there is no such callable, or it returns something else.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ConfigError(f"--network {reference!r} is not module:callable, such as my_app.audit:describe")
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.insert(0, place)  # to stay: processes that attack import the network from there, too
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--network {reference!r} cannot be loaded from {folder}: {error}") from error
    if not callable(found):
        raise ConfigError(f"--network {reference!r} is a {type(found).__name__}, expected a callable")
    description = found()
    if not isinstance(description, AppDescription):
        raise ConfigError(
            f"--network {reference!r} gives a {type(description).__name__}, expected a "
            "fedeff.audit.foreign_app.AppDescription"
        )
    return description


def foreign_victims(
    folder: Path,
    description: AppDescription,
    clients: int,
    seed: int,
    overrides: Mapping[str, Value],
) -> list[Victim]:
    """An update of each client with rows that took part in the first round, in an order that tells nothing.

    Raises:
        AuditError: if there is none.
    """
    shown = capture_foreign(
        folder,
        description.public,
        description.rows_of,
        description.training,
        clients,
        overrides=overrides,
        seed=seed,
    )
    order = generator(seed, purpose="audit victims").permutation(len(shown))
    found = [Victim(shown[place], seed) for place in order if len(shown[place].truth)]
    if not found:
        raise AuditError(f"by rows_of no client in {folder} trained on a row; there is nothing to attack")
    return found


def foreign_controls(description: AppDescription, beside: Sequence[Victim]) -> list[Victim]:
    """What one plain step of SGD on each victim's first row would have sent: the positive control."""
    return [Victim(_undefended(description, victim), victim.seed) for victim in beside]


def _undefended(description: AppDescription, victim: Victim) -> Captured:
    """The update of one step; made here, since nobody can ask an app of others for it."""
    truth, exchange = victim.captured.truth, victim.captured.view.first
    first = Truth(truth.inputs[:1], truth.labels[:1])
    network = description.public.network()
    load_weights(network, exchange.weights)
    logits = network(torch.from_numpy(np.array(first.inputs)))
    labels = torch.from_numpy(np.array(first.labels))
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    trained = {name: one for name, one in network.named_parameters() if one.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    rate = description.training.learning_rate
    told = {
        name: Told(-rate * gradient.numpy().astype(np.float64))
        for name, gradient in zip(trained, gradients, strict=True)
    }
    one_step = LocalTraining(steps=1, batch_size=1, learning_rate=rate)
    plain = Exchange(exchange.server_round, exchange.weights, told, one_step, examples=1)
    size = sum(4 * one.values.size for one in told.values())
    view = ServerView(description.public, (plain,))
    return Captured(view, first, victim.captured.partition, size)
