"""A round's coded answers, held until it is known who answered, and decoded into the gradient of all data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from fedeff.codes.gradient_coding import GradientCode
from fedeff.core.errors import ReplyError
from fedeff.strategies.weighted_sum import (
    CHUNK,
    NDArray,
    Total,
    Update,
    WeightedSum,
    add_scaled,
    partition_of,
    read_metrics,
    refusal_of,
)

__all__ = ["CodedSum", "CodedTotal", "Decoded", "amplification", "decoded"]

_EXAMPLES = "coded-examples"
Answers = Mapping[int, Update]  # by worker of the code


@dataclass
class CodedTotal(Total):
    """A round's answers: what each weighs in the sum is known only once all of them are there."""

    workers: list[int] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)  # of these workers, in the same order

    @property
    def answers(self) -> dict[int, Update]:
        """The answers by worker."""
        return dict(zip(self.workers, self.updates, strict=True))


@dataclass(frozen=True)
class CodedSum(WeightedSum):
    """Holds the answers of a gradient code's workers, whose number is their partition; refuses others.

    A model for each of them is in memory at a time. There is no sum of a part of them: not for engines
    that would fold replies where they are made.
    """

    clients: int = 1

    def empty(self) -> CodedTotal:
        """The total of no replies."""
        return CodedTotal()

    def add(self, total: Total | None, reply: Message) -> Total:
        """The total with one reply added, in place; None starts a new total."""
        total = self.empty() if total is None else total
        assert isinstance(total, CodedTotal)
        try:
            worker = self._worker(total, reply)
        except ReplyError as refusal:
            total.refused.append(refusal_of(reply, str(refusal)))
            return total
        super().add(total, reply)
        if len(total.updates) > len(total.workers):  # it was not refused
            total.workers.append(worker)
        return total

    def add_arrays(self, total: Total, update: Update) -> None:
        """Hold the update."""
        assert isinstance(total, CodedTotal)
        total.updates.append(update)

    def _worker(self, total: CodedTotal, reply: Message) -> int:
        _, metrics = read_metrics(reply, self.weighted_by)
        if not math.isfinite(examples := metrics.get(_EXAMPLES, math.nan)):
            raise ReplyError(
                f"metric {_EXAMPLES!r} is {examples}, expected a finite number from a client that knows "
                "procedure 'coded-gradient'"
            )
        worker = partition_of(reply)
        if worker is None or not 0 <= worker < self.clients:
            raise ReplyError(f"partition-id is {worker}, expected a worker from 0 to {self.clients - 1}")
        if worker in total.workers:
            raise ReplyError(f"worker {worker} of the gradient code has answered already")
        return worker


@dataclass(frozen=True)
class Decoded:
    """What a gradient code makes of the answers of a round."""

    sums: dict[str, NDArray]  # float64: the gradient of the summed loss over all rows, by key
    examples: float  # the rows of all data, decoded like the gradient
    residual: float  # |weights @ matrix - 1|: 0 where the gradient is exact
    coverage: float  # share of the parts that it stands for, in [0, 1]
    amplification: float  # of independent errors in the answers, 1 for a plain sum

    @property
    def mean(self) -> dict[str, NDArray]:
        """The gradient of the mean loss. Only where `examples` is positive."""
        return {key: np.asarray(values / self.examples) for key, values in self.sums.items()}


def decoded(code: GradientCode, answers: Answers) -> Decoded:
    """The gradient that the answers come to by the code's weights; sums are in the workers' order.

    With at most `code.s` missing it is that of all data. Beyond, it is the combination `sum a_j g_j` of the
    parts' gradients with the `a` that is nearest to all ones. As `a` is the projection of these, the mean of
    its entries is `1 - residual^2 / n`, the coverage; the rows are decoded by the same weights, so that
    `mean` is one over the rows that the answers stand for.
    """
    mask = np.isin(np.arange(code.n), list(answers))
    weights, residual = code.decode_weights(mask)
    sums: dict[str, NDArray] = {}
    scratch = np.empty(CHUNK, np.float64)
    for worker in sorted(answers):
        for key, values in answers[worker].arrays.items():
            if values.dtype.kind == "f":
                add_scaled(sums.setdefault(key, np.zeros(values.shape)), values, weights[worker], scratch)
    examples = math.fsum(weights[worker] * one.metrics[_EXAMPLES] for worker, one in answers.items())
    coverage = min(1.0, max(0.0, 1 - residual**2 / code.n))
    return Decoded(sums, examples, residual, coverage, amplification(code, weights))


def amplification(code: GradientCode, weights: NDArray) -> float:
    """How much larger an error of the decoded sum is than that of a plain sum of the parts' gradients.

    For independent errors in proportion to each answer, such as those of rounding or of a codec.
    """
    sizes = np.linalg.norm(code.matrix, axis=1)
    return float(np.linalg.norm(weights * sizes) / math.sqrt(code.n))
