"""Per-SSFL's personal model: trained beside the client's part of the global one, kept, never sent."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, RecordDict
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.loop import train_loop
from fedeff.clients.objective import Objectives
from fedeff.clients.optimisers import Optimiser
from fedeff.clients.self_supervision.simsiam import SimSiam
from fedeff.clients.training import Array, LocalTraining, Moments, Trained
from fedeff.clients.weights import load_weights, read_weights
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record

__all__ = ["PersonalSimSiam", "keep_personal", "kept_personal", "train_beside"]

_log = logging.getLogger(__name__)
_PERSONAL = "personal-model"  # of a client's state


@dataclass(frozen=True)
class PersonalSimSiam(SimSiam):
    """SimSiam for the global model, and for a personal one Per-SSFL's objective (arXiv:2110.02470).

    `L(theta) + weight / 2 |z_theta(x) - sg z_global(x)|^2`, the mean over a batch's views, with L SimSiam's
    loss on the same views and embeddings z of unit length, since L depends on their directions
    alone. The global model trains as it would without a personal one, to the bit.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ConfigError(f"personal-weight is {self.weight}; it must be a finite number of at least 0")

    def of_personal(self, model: nn.Module, z: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        """The personal model's loss, given its embeddings and the global model's of the same views."""
        apart = F.normalize(z, dim=1) - F.normalize(anchor.detach(), dim=1)
        return self.of(model, z).loss + self.weight / 2 * apart.square().sum(1).mean()


def train_beside(
    model: nn.Module,
    arrays: Mapping[str, Array],
    own: Mapping[str, Array],
    samples: Samples,
    training: LocalTraining,
    rng: np.random.Generator,
    moments: Moments | None = None,
) -> tuple[Trained, dict[str, Array]]:
    """What `train_loop` gives for the model `arrays`, and the personal model `own` after the same batches.

    `training.objective` is a `PersonalSimSiam`. The personal model takes as many steps by an optimiser of
    its own that begins anew, without FedProx, penalty and perturbation, which are the global model's.
    Twice the work of training alone.
    """
    objective = training.objective
    if not isinstance(objective, PersonalSimSiam):
        raise ConfigError(f"the objective is {objective!r}; a personal model is trained by PersonalSimSiam")
    personal = copy.deepcopy(model)
    load_weights(personal, own)
    personal.train()
    beside = _Beside(objective, personal, training)
    trained = train_loop(model, arrays, samples, replace(training, objective=beside), rng, moments)
    return trained, read_weights(personal)


class _Beside:
    """The global model's objective; each call moves the personal model, too."""

    def __init__(self, objective: PersonalSimSiam, model: nn.Module, training: LocalTraining) -> None:
        self._objective, self._model = objective, model
        own = {key: p for key, p in model.named_parameters() if p.requires_grad}
        self._parameters: list[torch.Tensor] = list(own.values())
        alone = replace(training, prox_mu=0.0, penalty=None)
        self._optimiser = Optimiser(alone, tuple(own), self._parameters)

    def __call__(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator
    ) -> Objectives:
        views = self._objective.views(x, rng)
        z = self._objective.embeddings(model, views)
        self._step(views, z.detach())
        return self._objective.of(model, z)

    def _step(self, views: torch.Tensor, anchor: torch.Tensor) -> None:
        z = self._objective.embeddings(self._model, views)
        loss = self._objective.of_personal(self._model, z, anchor)
        self._optimiser.step(self._parameters, torch.autograd.grad(loss, self._parameters))


def kept_personal(state: RecordDict, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The client's personal model; where there is none yet, or it was another network's, `arrays`."""
    record = state.get(_PERSONAL)
    own = decode_record(record) if isinstance(record, ArrayRecord) else {}
    shapes = {key: values.shape for key, values in own.items()}
    return own if shapes == {key: values.shape for key, values in arrays.items()} else dict(arrays)


def keep_personal(state: RecordDict, own: Mapping[str, Array]) -> None:
    """Make this the client's personal model; one that diverged leaves the earlier one in its place."""
    if all(np.isfinite(values).all() for values in own.values()):
        state[_PERSONAL] = encode_record(own)
    else:
        _log.warning("a personal model diverged and was put back; lower the learning rate")
