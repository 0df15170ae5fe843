"""How right a code's estimates are, measured against labels, by how many tasks of a group are missing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fedeff.codes.code import Code, decode_groups, encode_groups
from fedeff.codes.patterns import erasure_patterns
from fedeff.core.errors import CodeError
from fedeff.core.rng import generator

__all__ = ["Degraded", "degraded_accuracy", "worker_outputs"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_BATCH = 500


@dataclass(frozen=True)
class Degraded:
    """Accuracy of estimated answers in [0, 1]: the mean over erasure patterns, and that of the worst."""

    mean: float
    worst: float
    patterns: int


def degraded_accuracy(
    code: Code,
    outputs: NDArray,
    labels: NDArray,
    *,
    missing: int,
    patterns: int = 32,
    groups_each: int | None = None,
    seed: int = 0,
) -> Degraded:
    """How often estimates name the label where so many of a group's first `k` workers are missing.

    `outputs` is `(groups, k + r, classes)`, as `worker_outputs` gives, `labels` is `(groups, k)`. Every
    parity is there. Of a systematic code only the answers to missing originals count, since the others
    are the workers' own; of another code all are estimates. Every choice of the missing ones, or a seeded
    sample of `patterns`, each on all groups or on the next `groups_each` of them, in turn.

    Raises:
        CodeError: if none or more are missing than the code bears.
    """
    k = code.k
    if not 1 <= missing <= min(k, code.r):
        raise CodeError(
            f"{missing} of {k} originals missing, expected 1 to {min(k, code.r)}: there is no more parity"
        )
    rng = generator(seed, purpose="missing originals")
    own = erasure_patterns(k, missing, limit=patterns, rng=rng, fewest=missing)
    turn = np.arange(min(groups_each or len(outputs), len(outputs)))
    accuracies = []
    for number, mask in enumerate(np.concatenate([own, np.ones((len(own), code.r), bool)], axis=1)):
        estimated = ~mask[:k] if code.systematic else np.full(k, True)
        groups = (number * len(turn) + turn) % len(outputs)
        values = decode_groups(code, outputs[groups], mask)[:, estimated]
        accuracies.append(float((values.argmax(-1) == labels[groups][:, estimated]).mean()))
    return Degraded(float(np.mean(accuracies)), min(accuracies), len(own))


@torch.inference_mode()
def worker_outputs(code: Code, function: nn.Module, inputs: NDArray) -> NDArray:
    """What every worker says of `(groups, k, ...)` inputs, `(groups, k + r, ...)`, in float32.

    The function, and the code's parity models where it has any, are put in eval mode.
    """
    coded = encode_groups(code, inputs)
    models = tuple(getattr(code, "parity_models", ())) or (function,) * coded.shape[1]
    said = [_answers(model, coded[:, worker]) for worker, model in enumerate(models)]
    own = [_answers(function, inputs[:, item]) for item in range(code.k)] if code.systematic else []
    return np.stack([*own, *said], axis=1)


def _answers(model: nn.Module, inputs: NDArray) -> NDArray:
    model.eval()
    batches = torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), _BATCH)
    said = [model(some) for some in batches]
    found: NDArray = torch.cat(said).numpy()
    return found
