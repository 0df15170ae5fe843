"""One linear combination of several data parts' gradients: what a worker of a gradient code answers.

Tandon et al., "Gradient coding" (arXiv:1612.03301, section 2). The gradient of a part must be the same
whoever computes it, so whatever is random in it is drawn by the part's number, not by the client's.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.loop import gradients_of
from fedeff.clients.messages import Request
from fedeff.clients.replies import diverged, reply_of
from fedeff.clients.training import Array, LocalTraining
from fedeff.clients.turn import Turn
from fedeff.clients.weights import load_weights
from fedeff.core.errors import ConfigError
from fedeff.core.layers import encode_record
from fedeff.core.parts import take

__all__ = ["CodedGradient", "Part", "Share", "coded_gradient", "coded_reply", "read_share"]

_PARTS, _COEFFICIENTS = "parts:", "coefficients:"  # of a message's config, before a partition's number


@dataclass(frozen=True)
class Share:
    """The parts that a worker of the code holds, by partition, and the coefficient of each in its answer."""

    parts: tuple[int, ...]
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """A data part at work: its coefficient, its rows, and what its batches are drawn from."""

    coefficient: float
    samples: Samples
    rng: np.random.Generator


@dataclass(frozen=True)
class CodedGradient:
    """The combination of the parts' summed gradients, float64 by key of the parameters that are trained.

    `coded_examples` is the same combination of the parts' numbers of rows, `examples` their plain sum,
    `loss` the mean over these rows, `steps` the number of batches.
    """

    arrays: dict[str, Array]
    coded_examples: float
    examples: int
    loss: float
    steps: int


def read_share(request: Request) -> Share:
    """The client's own share in the code that a message describes: `parts:I`, `coefficients:I` for worker I.

    Raises:
        ConfigError: where the workers are not the clients, or the share makes no sense.
    """
    config, clients = request.message.content["config"], request.partitions
    workers = sum(key.startswith(_PARTS) for key in config)
    if workers != clients:
        raise ConfigError(
            f"the gradient code has {workers} workers, this is one of {clients} clients (num-partitions); "
            "every client must be a worker, and the parts must be all of the data"
        )
    parts = _listed(config, f"{_PARTS}{request.partition}")
    coefficients = _listed(config, f"{_COEFFICIENTS}{request.partition}")
    if len(parts) != len(coefficients) or not parts:
        raise ConfigError(f"{len(parts)} parts with {len(coefficients)} coefficients; expected one for each")
    if not all(type(part) is int and 0 <= part < clients for part in parts):
        raise ConfigError(f"parts are {list(parts)}; expected partitions from 0 to {clients - 1}")
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in coefficients):
        raise ConfigError(f"coefficients are {list(coefficients)}; expected finite numbers")
    return Share(parts, tuple(map(float, coefficients)))


def coded_gradient(
    model: nn.Module, arrays: Mapping[str, Array], parts: Iterable[Part], training: LocalTraining
) -> CodedGradient:
    """The sum over the parts of coefficient times gradient of the summed loss over the part's rows.

    No step is taken. Each part is gone through once, in batches whose gradients are added up; with
    `training.steps` that many batches stand for it, scaled to all of its rows. Weight decay is part of
    the loss, dropout, perturbation and objective are as in training; optimizer and epochs play no part.
    `model` is overwritten. Raises ConfigError where the arrays do not fit it, or it has running
    statistics, which no gradient moves.
    """
    load_weights(model, arrays)
    own = {key: p for key, p in model.named_parameters() if p.requires_grad}
    parameters = list(own.values())
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    coded_examples, examples, loss, steps = 0.0, 0, 0.0, 0
    for part in parts:
        gradient, mean_loss, taken = _summed(model, parameters, part, training)
        torch._foreach_add_(sums, gradient, alpha=part.coefficient)
        rows = len(part.samples)
        coded_examples += part.coefficient * rows
        examples, loss, steps = examples + rows, loss + mean_loss * rows, steps + taken
    _refuse_moved(model, arrays)
    found = {key: values.contiguous().cpu().numpy() for key, values in zip(own, sums, strict=True)}
    return CodedGradient(found, coded_examples, examples, loss / examples, steps)


def coded_reply(turn: Turn, coded: CodedGradient) -> Message:
    """The combination in the dtypes of the model's arrays, zeros for those that have no gradient.

    Raises ReplyError where the loss or the gradient is not finite.
    """
    request = turn.request
    with np.errstate(over="ignore"):
        arrays = {
            key: np.asarray(coded.arrays.get(key, np.zeros(values.shape)), values.dtype, order="C")
            for key, values in turn.weights.items()
        }
    if not (math.isfinite(coded.loss) and all(np.isfinite(values).all() for values in arrays.values())):
        raise diverged(request, coded.loss)
    metrics: dict[str, int | float] = {
        "num-examples": coded.examples,
        "num-steps": coded.steps,
        "partition-id": request.partition,
        "train-loss": coded.loss,
        "coded-examples": coded.coded_examples,
    }
    return reply_of(request, encode_record(arrays if turn.due is None else take(arrays, turn.due)), metrics)


def _summed(
    model: nn.Module, parameters: list[nn.Parameter], part: Part, training: LocalTraining
) -> tuple[list[torch.Tensor], float, int]:
    """One part's summed gradient in float64, its mean loss, and the number of batches."""
    work = training if training.steps else replace(training, epochs=1)
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    loss, seen, taken = 0.0, 0, 0
    for count, of_batch, gradients in gradients_of(model, parameters, part.samples, work, part.rng):
        torch._foreach_add_(sums, [one.double() for one in gradients], alpha=count)
        loss, seen, taken = loss + float(of_batch.loss) * count, seen + count, taken + 1
    rows = len(part.samples)
    if seen != rows:
        torch._foreach_mul_(sums, rows / seen)
    if training.weight_decay:
        decayed = [p.detach().double() for p in parameters]
        torch._foreach_add_(sums, decayed, alpha=training.weight_decay * rows)
    return sums, loss / seen, taken


def _refuse_moved(model: nn.Module, arrays: Mapping[str, Array]) -> None:
    for key, values in model.named_buffers():
        if key in arrays and not np.array_equal(values.cpu().numpy(), arrays[key]):
            raise ConfigError(
                f"buffer {key!r} moves when the model trains, which a coded gradient cannot carry; take a "
                "model without running statistics, such as one with GroupNorm"
            )


def _listed(config: Mapping[str, object], key: str) -> tuple[Any, ...]:
    value = config.get(key)
    if not isinstance(value, list):
        raise ConfigError(f"{key} is {value!r}; expected a list, as procedure 'coded-gradient' needs it")
    return tuple(value)
