"""Fitting a learned code to a function: one call."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

import fedeff
from fedeff.codes.code import NDArray
from fedeff.codes.learned.erasures import missing_patterns
from fedeff.codes.learned.frozen import answers_of, frozen, function_digest
from fedeff.codes.learned.network import Shapes
from fedeff.codes.learned.quality import Answers, PatternQuality, classes, measure
from fedeff.codes.learned.recipes import Recipe
from fedeff.codes.learned.samples import as_labels, as_samples
from fedeff.codes.learned.trained import FitRecord, TrainedCode
from fedeff.codes.learned.training import Budget, Progress, TrainingSet, train
from fedeff.core.errors import CodeError
from fedeff.core.rng import generator
from fedeff.models.threads import one_thread

__all__ = ["fit"]

_HELD_OUT = 0.1  # of the samples, to measure on
_MOST_HELD_OUT = 2000


def fit(
    recipe: Recipe,
    function: nn.Module,
    samples: torch.Tensor | NDArray,
    *,
    labels: torch.Tensor | NDArray | None = None,
    outputs: torch.Tensor | NDArray | None = None,
    budget_s: float = 180.0,
    steps: int | None = None,
    patterns: int = 32,
    seed: int = 0,
    answers: Answers = classes,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.process_time,
) -> TrainedCode:
    """A code for a function, trained on what it says of `(n, ...)` samples, and measured on a tenth of them.

    Trains for `budget_s` seconds of one core, or for so many `steps`, which repeats bit for bit on the same
    machine; computing the function's answers and measuring come on top. Learns from every erasure pattern of
    up to `r`, or a seeded sample of `patterns`. The function is in eval mode and frozen meanwhile, and as it
    was afterwards. `labels` matter to the loss "cross-entropy" alone: without them the function's classes
    stand in. `outputs` are what the function says of the samples, `(n, ...)`, where that is known already, as
    when several codes are fitted to it. `answers` is what quality compares. `progress` hears of every step;
    `clock` tells what of the budget is spent.

    Raises:
        CodeError: if the samples do not fit the recipe or the function, or training diverges.
        ConfigError: if the recipe cannot code inputs or answers of these shapes, or the budget is no budget.

        >>> from fedeff.models import build
        >>> code = fit(PackedCode(k=2, r=1), build("cnn"), images, budget_s=60)  # doctest: +SKIP
    """
    budget, inputs = Budget(budget_s, steps), as_samples(samples)
    if len(inputs) < 2 * recipe.k:
        raise CodeError(
            f"{len(inputs)} samples, expected at least two groups of {recipe.k}: one to measure on"
        )
    with one_thread(), frozen(function):
        said = answers_of(function, inputs) if outputs is None else _told(outputs, len(inputs))
        data = TrainingSet(inputs, said, as_labels(labels, said))
        kept, held_out = _split(data, recipe.k, seed)
        rng = generator(seed, purpose="erasure patterns")
        masks = missing_patterns(recipe.k, recipe.r, limit=patterns, rng=rng)
        known = recipe.resolved(function, inputs[:1])
        shapes = Shapes(tuple(inputs.shape[1:]), tuple(said.shape[1:]))
        trained = train(
            lambda: known.network(shapes, function),
            kept,
            function,
            torch.from_numpy(masks),
            groups=known.groups,
            learning_rate=known.learning_rate,
            budget=budget,
            seed=seed,
            progress=progress,
            clock=clock,
        )
        record = FitRecord(
            seed=seed,
            function=function_digest(function),
            steps=trained.steps,
            restarts=trained.restarts,
            first_loss=trained.first_loss,
            last_loss=trained.last_loss,
            cpu_s=trained.cpu_s,
            version=fedeff.__version__,
        )
        network = trained.network.eval().requires_grad_(False)
        unknown = PatternQuality(masks, np.full((len(masks), recipe.k), np.nan))
        code = TrainedCode(known, shapes, network, unknown, record)
        quality = measure(code, function, held_out.inputs, masks, seed=seed, answers=answers)
    return replace(code, pattern_quality=quality)


def _told(outputs: torch.Tensor | NDArray, samples: int) -> torch.Tensor:
    said = torch.as_tensor(outputs, dtype=torch.float32)
    if len(said) != samples:
        raise CodeError(
            f"{len(said)} outputs of {samples} samples, expected one each, or none to compute them"
        )
    return said


def _split(data: TrainingSet, k: int, seed: int) -> tuple[TrainingSet, TrainingSet]:
    """What is trained on and what is held out, each at least a group."""
    order = torch.from_numpy(generator(seed, purpose="held out samples").permutation(len(data)))
    count = max(k, min(_MOST_HELD_OUT, int(_HELD_OUT * len(data))))
    return data.take(order[count:]), data.take(order[:count])
