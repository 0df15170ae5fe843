"""The plain loop: one client, one batch after another."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.optimisers import Optimiser
from fedeff.clients.training import Array, LocalTraining, Trained, batches
from fedeff.clients.weights import load_weights, read_weights

__all__ = ["has_dropout", "train_loop"]


def train_loop(
    model: nn.Module,
    arrays: Mapping[str, Array],
    samples: Samples,
    training: LocalTraining,
    rng: np.random.Generator,
) -> Trained:
    """The model `arrays` after local training on `samples`, which are on the training device.

    `model` is only the place where it happens: its weights are overwritten at the start and left
    trained. The same arguments give the same result bit for bit, dropout included.
    Raises ConfigError where the arrays do not fit the model or there are no samples.
    """
    load_weights(model, arrays)
    model.train()
    parameters: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimiser = Optimiser(training, parameters)
    total, taken = torch.zeros((), device=samples.y.device), []
    with _seeded_dropout(model, rng):
        for rows in batches(len(samples), training, rng):
            index = torch.from_numpy(rows).to(samples.y.device)
            with _precision(training):
                loss = _loss(model(samples.x.index_select(0, index)), samples.y.index_select(0, index))
            optimiser.step(parameters, torch.autograd.grad(loss, parameters))
            total.add_(loss.detach(), alpha=len(rows))
            taken.append(len(rows))
    return Trained(read_weights(model), len(taken), float(total) / sum(taken), len(samples))


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (n, ..., classes) against labels (n, ...)."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def _precision(training: LocalTraining) -> contextlib.AbstractContextManager[object]:
    # Entered anew for each step: autocast keeps the converted weights until it is left.
    if training.autocast:
        return torch.autocast(torch.device(training.device).type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def has_dropout(model: nn.Module) -> bool:
    """Whether the model draws random numbers when it trains."""
    return any(
        isinstance(module, nn.modules.dropout._DropoutNd)
        or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        for module in model.modules()
    )


@contextlib.contextmanager
def _seeded_dropout(model: nn.Module, rng: np.random.Generator) -> Iterator[None]:
    """Let dropout draw from a seed of its own, and put torch's global generator back afterwards."""
    if not has_dropout(model):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**63)))
        yield
