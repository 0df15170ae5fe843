"""A network that is cut while it trains, beside the whole one and one that was small from the start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import nn

from bench.clients.shrinking import Arrays, Phase, Speed, arrays_of, speeds
from fedeff.clients.data import Samples
from fedeff.clients.structure import Sparsity
from fedeff.models import apply, shrink

__all__ = ["Ended", "cut_and_whole"]


@dataclass(frozen=True, eq=False)
class Ended:
    """What a network came to."""

    module: nn.Module
    weights: Arrays
    speed: Speed | None  # None: that of the cut one, whose shape it has


class Fit(Protocol):
    """Training on the row's data by the row's optimizer."""

    def __call__(self, module: nn.Module, arrays: Arrays, *, phases: Sequence[Phase], seed: int) -> Arrays:
        """The weights after all phases."""
        ...


def cut_and_whole(
    build: Callable[[int], nn.Module],
    fit: Fit,
    samples: Samples,
    sparsity: Sparsity,
    before: Sequence[Phase],
    after: Phase,
    learning_rate: float,
    seed: int,
) -> tuple[Ended, Ended, Ended]:
    """The whole network, the cut one, and its like from scratch, all trained for as many epochs.

    The network is whole in the phases `before`, in the last of which the penalty of `sparsity` is on; then it
    is cut once and trains on for the phase `after`. The other two go at `learning_rate` from start to end.
    """
    whole = build(seed)
    start = arrays_of(whole)
    epochs = sum(phase.epochs for phase in before) + after.epochs
    baseline = fit(whole, start, phases=[Phase(epochs, learning_rate)], seed=seed)
    penalty = sparsity.penalty(whole)
    *plain, last = before
    penalised = fit(whole, start, phases=[*plain, replace(last, penalty=penalty)], seed=seed)
    structure, weights = shrink(whole, penalised, sparsity.threshold)
    small = apply(structure, whole)
    cut = fit(small, weights, phases=[after], seed=seed + 1000)
    direct = apply(structure, build(seed + 1))
    scratch = fit(direct, arrays_of(direct), phases=[Phase(epochs, learning_rate)], seed=seed)
    full = build(0)
    fast = speeds([build(0), apply(structure, full)], samples)
    return Ended(full, baseline, fast[0]), Ended(small, cut, fast[1]), Ended(direct, scratch, None)
