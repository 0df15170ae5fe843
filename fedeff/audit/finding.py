"""What an attack is, and what it found."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedeff.audit.view import NDArray, ServerView

__all__ = ["Attack", "Budget", "Finding"]


@dataclass(frozen=True)
class Budget:
    """How long an attack may try: seconds of wall time from when this is made."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.began + self.seconds - time.monotonic())

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.left_s == 0.0


@dataclass(frozen=True, eq=False)
class Finding:
    """What one attack rebuilt, by its own account: it was not told whether it is right.

    `inputs` (n, *input_shape) float64, or int64 tokens (n, length), in no particular order, of which those
    below 0 are left open; `labels`
    (n,) or (n, length) int64, one for each input where both are there. None: it does not tell these.
    `loss` is what the attack minimised at its end, NaN where there was nothing to minimise; `converged`
    whether it ended by itself, not by its budget. `facts` are numbers worth a line in a report
    (restarts, rank, iterations).
    """

    attack: str
    inputs: NDArray | None
    labels: NDArray | None
    loss: float
    converged: bool
    seconds: float
    facts: dict[str, float] = field(default_factory=dict)


class Attack(Protocol):
    """A frozen dataclass that rebuilds inputs or labels from a view and nothing else."""

    @property
    def name(self) -> str:
        """The name in the table of attacks, such as `inverting-gradients`."""
        ...

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        ...

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """What it rebuilds within the budget; the same view and generator give the same.

        Raises AuditError where there is an obstacle.
        """
        ...
