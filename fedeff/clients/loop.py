"""The plain loop: one client, one batch after another."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.objective import Objectives
from fedeff.clients.optimisers import Optimiser
from fedeff.clients.penalty import Penalty
from fedeff.clients.perturbation import Noise, measure_statistics
from fedeff.clients.training import Array, LocalTraining, Moments, Trained, batches
from fedeff.clients.weights import load_weights, read_weights

__all__ = ["gradients_of", "has_dropout", "mean_loss", "train_loop"]

_WINDOW_BYTES = 1 << 20  # of samples gathered at a time: they should still be in cache when their step comes


def train_loop(
    model: nn.Module,
    arrays: Mapping[str, Array],
    samples: Samples,
    training: LocalTraining,
    rng: np.random.Generator,
    moments: Moments | None = None,
) -> Trained:
    """The model `arrays` after local training on `samples`, which are on the training device.

    `model` is only the place where it happens: its weights are overwritten at the start and left
    trained. The same arguments give the same result bit for bit, dropout included. With `moments`
    the optimiser goes on from them, and the result holds those it ends with.
    Raises ConfigError where the arrays do not fit the model or there are no samples.
    """
    load_weights(model, arrays)
    own: dict[str, torch.Tensor] = {key: p for key, p in model.named_parameters() if p.requires_grad}
    keys, parameters = tuple(own), list(own.values())
    optimiser = Optimiser(training, keys, parameters)
    if moments is not None:
        optimiser.resume(moments)
    means, taken = _Means(samples.y.device), []
    for count, of_batch, gradients in gradients_of(model, parameters, samples, training, rng):
        _step(optimiser, own, gradients, training.penalty)
        means.add(of_batch, count)
        taken.append(count)
    kept = None if moments is None else optimiser.gathered(len(taken))
    loss, measures = means.over(sum(taken))
    return Trained(read_weights(model), len(taken), loss, len(samples), kept, measures)


class _Means:
    """The loss and the measures of batches, summed where they are computed."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._measures: dict[str, torch.Tensor] = {}

    def add(self, of_batch: Objectives, count: int) -> None:
        self._loss.add_(of_batch.loss, alpha=count)
        for name, value in of_batch.measures.items():
            self._measures.setdefault(name, torch.zeros_like(value)).add_(value, alpha=count)

    def over(self, samples: int) -> tuple[float, dict[str, float]]:
        measures = {name: float(total) / samples for name, total in self._measures.items()}
        return float(self._loss) / samples, measures


def _step(
    optimiser: Optimiser,
    weights: dict[str, torch.Tensor],
    gradients: Sequence[torch.Tensor],
    penalty: Penalty | None,
) -> None:
    """Move the weights by one step, the penalty's gradient among the others."""
    if penalty is None:
        optimiser.step(list(weights.values()), tuple(gradients))
        return
    with torch.no_grad():
        # Copied, as autograd gives one tensor to parameters that are added to each other.
        own = {key: gradient.clone() for key, gradient in zip(weights, gradients, strict=True)}
        penalty.add_to(weights, own)
        optimiser.step(list(weights.values()), list(own.values()))
        penalty.after_step(weights)


def gradients_of(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    samples: Samples,
    training: LocalTraining,
    rng: np.random.Generator,
) -> Iterator[tuple[int, Objectives, tuple[torch.Tensor, ...]]]:
    """Each batch's size, mean loss with measures, and its gradient, at the weights that the model has then.

    With a perturbation both are those of the weights with noise on them. At the end running
    statistics that noise went into are measured anew. With DP-SGD the gradient is the private one.
    """
    model.train()
    noise = Noise(training, rng)
    private = None if training.dp_sgd is None else training.dp_sgd.generator(rng)
    with _seeded_dropout(model, rng):
        for x, y in _gathered(samples, batches(len(samples), training, rng)):
            with noise.on(parameters):
                if training.dp_sgd is not None and private is not None:
                    loss, gradients = training.dp_sgd.gradient(model, parameters, x, y, private)
                    of_batch = Objectives(loss)
                else:
                    with _precision(training):
                        of_batch = _objectives(model, x, y, training, rng)
                    gradients = torch.autograd.grad(of_batch.loss, parameters)
            yield len(y), Objectives(of_batch.loss.detach(), of_batch.measures), gradients
        if training.perturbation != "none":
            measure_statistics(model, samples)


def _objectives(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, training: LocalTraining, rng: np.random.Generator
) -> Objectives:
    if training.objective is None:
        return Objectives(mean_loss(model(x), y))
    return training.objective(model, x, y, rng)


def _gathered(samples: Samples, plan: Iterable[Array]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels of each batch of row numbers; several small batches cost one gather."""
    most = max(1, _WINDOW_BYTES // max(1, samples.x[:1].nbytes))
    for window in _windows(plan, most):
        rows = torch.from_numpy(np.concatenate(window)).to(samples.y.device)
        x, y = samples.x.index_select(0, rows), samples.y.index_select(0, rows)
        sizes = [len(batch) for batch in window]
        yield from zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)


def _windows(plan: Iterable[Array], most: int) -> Iterator[list[Array]]:
    """Successive batches of together at most so many rows; at least one each."""
    window: list[Array] = []
    for batch in plan:
        if window and sum(map(len, window)) + len(batch) > most:
            yield window
            window = []
        window.append(batch)
    if window:
        yield window


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
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
