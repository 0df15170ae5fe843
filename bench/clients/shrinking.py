"""What the rows on structure share: training on pooled data in phases, and the speed of two models."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fedeff.clients import LocalTraining, evaluate, train_loop
from fedeff.clients.data import Samples, prepared
from fedeff.clients.penalty import Penalty
from fedeff.clients.training import Moments
from fedeff.core.rng import generator
from fedeff.data import Split

__all__ = ["Arrays", "Phase", "Speed", "arrays_of", "parameters", "pooled", "score", "speeds", "trained"]

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]

_BATCH, _INFERENCE_BATCH = 64, 256
_REPEATS, _STEPS = 15, 3


@dataclass(frozen=True)
class Phase:
    """Some epochs at a learning rate that falls to a tenth, or less, by a cosine; momentum goes on within."""

    epochs: int
    learning_rate: float
    penalty: Penalty | None = None
    fall: float = 0.9  # share of the learning rate that is gone at the end

    def rates(self) -> list[float]:
        """The learning rate of each epoch."""
        behind = [epoch / max(1, self.epochs) for epoch in range(self.epochs)]
        return [self.learning_rate * (1 - self.fall * (1 - math.cos(math.pi * b)) / 2) for b in behind]


@dataclass(frozen=True)
class Speed:
    """Milliseconds of one core's time: a forward pass over 256 rows, a training step over 64."""

    inference_ms: float
    step_ms: float


def pooled(split: Split, rows: slice = slice(None)) -> Samples:
    """Rows of all clients together."""
    return prepared(*split.batch(rows), "cpu")


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Copies of a module's weights."""
    return {key: value.detach().contiguous().numpy().copy() for key, value in module.state_dict().items()}


def parameters(module: nn.Module) -> int:
    """How many weights a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def trained(
    module: nn.Module,
    arrays: Arrays,
    samples: Samples,
    phases: Sequence[Phase],
    seed: int,
    *,
    batch_size: int = _BATCH,
    optimizer: str = "momentum",
) -> dict[str, Array]:
    """The weights after all phases; each epoch's batches are drawn from the seed and the epoch's number."""
    torch.set_num_threads(1)
    held, epoch, moments = dict(arrays), 0, Moments()
    for phase in phases:
        for rate in phase.rates():
            training = LocalTraining(
                batch_size=batch_size,
                optimizer=optimizer,  # type: ignore[arg-type]
                momentum=0.9 if optimizer == "momentum" else 0.0,
                learning_rate=rate,
                penalty=phase.penalty,
            )
            rng = generator(seed, purpose="pooled batches", round=epoch)
            after = train_loop(module, held, samples, training, rng, moments)
            held, moments = after.arrays, after.moments or Moments()
            epoch += 1
    return held


def score(module: nn.Module, arrays: Arrays, samples: Samples) -> tuple[float, float]:
    """Accuracy in % and loss in nats on these samples."""
    found = evaluate(module, arrays, samples)
    return 100 * found.accuracy, found.loss


def speeds(modules: Sequence[nn.Module], samples: Samples) -> list[Speed]:
    """How fast each module is on one core: medians of 15 turns, in which the modules alternate.

    What is counted is the processor's time of this process, so that others on the machine count little.
    Weights are overwritten.
    """
    torch.set_num_threads(1)
    laid_out = [_laid_out(module) for module in modules]
    turns = [
        [(_inference_s(one, samples), _step_s(one, samples)) for one in laid_out] for _ in range(_REPEATS)
    ]
    return [
        Speed(*(1000 * statistics.median(times) for times in zip(*own, strict=True)))
        for own in zip(*turns, strict=True)
    ]


def _laid_out(module: nn.Module) -> nn.Module:
    """As a client lays it out."""
    if any(isinstance(one, nn.Conv2d) for one in module.modules()):
        laid_out: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return laid_out
    return module


@torch.inference_mode()
def _inference_s(module: nn.Module, samples: Samples) -> float:
    x = samples.x[:_INFERENCE_BATCH]
    if x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    module.eval()
    begin = time.process_time()
    module(x)
    return time.process_time() - begin


def _step_s(module: nn.Module, samples: Samples) -> float:
    few = Samples(samples.x[: _STEPS * _BATCH], samples.y[: _STEPS * _BATCH])
    training = LocalTraining(steps=_STEPS, batch_size=_BATCH, learning_rate=1e-6)
    arrays, rng = arrays_of(module), np.random.default_rng(0)
    begin = time.process_time()
    train_loop(module, arrays, few, training, rng)
    return (time.process_time() - begin) / _STEPS
