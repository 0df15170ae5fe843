"""Training a code's networks within a budget, and again from another seed where they do not learn."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fedeff.codes.learned.network import Batch, CodeNetwork
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator

__all__ = ["Budget", "Progress", "Trained", "TrainingSet", "seeded", "train"]

_WEIGHT_DECAY = 1e-5
_WARM_UP = 0.05  # of the budget
_WINDOW = 20  # steps that a loss is averaged over
_PROBE = 0.1  # of an attempt's budget, after which it must have learned something
_MOVED = 0.99  # a loss above this share of another is no lower
_RESTARTS = 3  # at most: a loss that never moves is not the seed's fault


@dataclass(frozen=True)
class Budget:
    """How long to train: seconds of the processor, or steps, with which a fit repeats bit for bit."""

    cpu_s: float
    steps: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cpu_s) and self.cpu_s > 0):
            raise ConfigError(f"budget_s is {self.cpu_s}, expected a positive number of seconds")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}, expected at least 1, or None to train for budget_s")


@dataclass(frozen=True)
class Progress:
    """How far a fit has come."""

    step: int
    done: float  # share of the budget, 0 to 1
    loss: float  # mean of the latest steps
    restarts: int


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave."""

    network: CodeNetwork
    steps: int  # of all attempts
    restarts: int
    first_loss: float  # of the last attempt, before anything was learned
    last_loss: float
    cpu_s: float


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Samples, and what the function says of them."""

    inputs: Tensor  # (n, ...)
    answers: Tensor  # (n, ...)
    labels: Tensor  # (n,)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor) -> "TrainingSet":
        """Some of the samples."""
        return TrainingSet(self.inputs[rows], self.answers[rows], self.labels[rows])

    def batch(self, rows: Tensor) -> Batch:
        """Groups of the samples with these `(groups, k)` numbers."""
        return Batch(self.inputs[rows], self.answers[rows], self.labels[rows])

    def batches(self, k: int, groups: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Groups by random permutations, without end; each batch is full where there are samples enough."""
        count = min(groups, len(self) // k)
        while True:
            order = torch.from_numpy(rng.permutation(len(self)))
            for start in range(0, len(self) - count * k + 1, count * k):
                yield self.batch(order[start : start + count * k].view(count, k))


@dataclass
class _Spent:
    """What of a budget is gone."""

    budget: Budget
    clock: Callable[[], float]
    begun_s: float = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.begun_s = self.clock()

    @property
    def cpu_s(self) -> float:
        return self.clock() - self.begun_s

    @property
    def share(self) -> float:
        if self.budget.steps is not None:
            return self.steps / self.budget.steps
        return self.cpu_s / self.budget.cpu_s


def train(
    make: Callable[[], CodeNetwork],
    data: TrainingSet,
    function: nn.Module,
    masks: Tensor,
    *,
    groups: int,
    learning_rate: float,
    budget: Budget,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Trained:
    """Networks trained by Adam with a cosine schedule over the budget, anew where the loss does not move.

    An attempt is given up for another seed, up to three times, if after a tenth of what it may spend its
    loss is not below that of one answer for all, and has not moved since half of that; or is not finite.

    Raises:
        CodeError: if the loss is not finite in the end.
    """
    spent = _Spent(budget, clock)
    for restart in range(_RESTARTS + 1):
        rng = generator(seed, purpose="learned code", round=restart)
        with seeded(rng):
            attempt = _Attempt(make, data, function, masks, groups, learning_rate, rng)
            attempt.run(spent, restart, progress)
        if not attempt.stuck:
            break
    if not math.isfinite(attempt.loss):
        raise CodeError(
            f"training diverged: the loss is {attempt.loss} after {spent.steps} steps; scale the inputs"
        )
    return Trained(attempt.network, spent.steps, restart, attempt.first_loss, attempt.loss, spent.cpu_s)


class _Attempt:
    """Networks from one seed, and how their loss went."""

    def __init__(
        self,
        make: Callable[[], CodeNetwork],
        data: TrainingSet,
        function: nn.Module,
        masks: Tensor,
        groups: int,
        learning_rate: float,
        rng: np.random.Generator,
    ) -> None:
        self.network = make()
        self.network.prepare(data.inputs)
        self._batches = data.batches(self.network.k, groups, rng)
        self._function, self._masks, self._rate = function, masks, learning_rate
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        self._losses: list[float] = []
        self.stuck = False

    @property
    def first_loss(self) -> float:
        return float(np.mean(self._losses[:_WINDOW]))

    @property
    def loss(self) -> float:
        return float(np.mean(self._losses[-_WINDOW:]))

    def run(self, spent: _Spent, restart: int, progress: Callable[[Progress], None] | None) -> None:
        """Steps until the budget is spent or nothing was learned."""
        begun, probed = spent.share, restart == _RESTARTS
        while (share := spent.share) < 1 or not self._losses:
            own = (share - begun) / (1 - begun)
            self._step(own)
            spent.steps += 1
            if progress is not None:
                progress(Progress(spent.steps, min(1.0, spent.share), self.loss, restart))
            if not probed and own >= _PROBE and len(self._losses) >= 4 * _WINDOW:
                probed, self.stuck = True, self._has_not_moved()
                if self.stuck:
                    return

    def _has_not_moved(self) -> bool:
        half = len(self._losses) // 2
        earlier = float(np.mean(self._losses[half - _WINDOW : half]))
        default = float(self.network.default_loss(next(self._batches)))
        return not self.loss < _MOVED * max(earlier, default)  # so is what is no number

    def _step(self, share: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * _schedule(share)
        self._optimiser.zero_grad()
        loss = self.network.loss(next(self._batches), self._function, self._masks)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._losses.append(float(loss.detach()))


def _schedule(share: float) -> float:
    """Of the learning rate: up in a twentieth of the budget, then down along half a cosine."""
    return min(1.0, share / _WARM_UP + 0.1) * (1 + math.cos(math.pi * min(1.0, share))) / 2


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Torch's global generator from `rng`; as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63 - 1)))
        yield
