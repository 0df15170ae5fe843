"""Deep leakage from gradients: inputs whose gradient is the one that came."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.candidates import (
    are_told,
    best_scale,
    known_labels,
    obstacle_to_optimising,
    random_inputs,
)
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching, obstacle_to_replay
from fedeff.audit.view import NDArray, ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["DeepLeakage"]

_STEPS_AT_ONCE = 20  # of L-BFGS between looks at the budget
_LEAST_PROGRESS = 1e-6  # of the loss over so many steps: less is the end


@dataclass(frozen=True)
class DeepLeakage:
    """Rebuilds inputs by L-BFGS on the squared difference of gradients (DLG, Zhu et al., arXiv:1906.08935).

    Labels are inferred first; with `joint_labels`, or where nothing betrays them, they are optimised as
    probabilities beside the inputs, as the paper does (its algorithm 1), and the likeliest class is reported.
    Strong Wolfe line search, history 100, no tolerance but the loss itself. Restarts are ranked by the loss
    alone. Stops early on networks with rectifiers, whose gradients do not move smoothly.
    """

    name: str = "dlg"
    restarts: int = 4
    steps: int = 400
    joint_labels: bool = False
    history: int = 100
    fits: float = 4.0  # times the loss that noise and rounding make: below it no restart follows

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if view.public.task == "classify" and not are_told(view):
            return obstacle_to_replay(view)
        return obstacle_to_optimising(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The inputs with the smallest loss of all restarts. Raises AuditError where there is an obstacle."""
        if obstacle := self.obstacle(view):
            raise AuditError(obstacle)
        began = time.monotonic()
        with one_thread():
            matching = Matching(view, scale=best_scale(view))
            ends: list[_End] = []
            for _ in range(self.restarts):
                ends.append(self._restart(view, matching, budget, rng))
                if budget.spent or ends[-1].loss <= self.fits * matching.expected:
                    break
        best = min(ends, key=lambda end: end.loss)
        inputs = best.inputs.clip(view.public.lowest, view.public.highest)
        facts = {"restarts": float(len(ends)), "steps": float(sum(end.steps for end in ends))}
        seconds = time.monotonic() - began
        return Finding(self.name, inputs, best.labels, best.loss, best.converged, seconds, facts)

    def _restart(
        self, view: ServerView, matching: Matching, budget: Budget, rng: np.random.Generator
    ) -> "_End":
        x = random_inputs(view, matching, rng).requires_grad_(True)
        if are_told(view) and not self.joint_labels:
            y = torch.from_numpy(np.asarray(known_labels(view, matching.rows)))
            end = self._minimised([x], lambda: matching.squared(x, y), budget)
            return _End(x.detach().numpy(), y.numpy(), *end)
        drawn = rng.standard_normal((matching.rows, view.public.classes))
        logits = torch.from_numpy(drawn).requires_grad_(True)
        end = self._minimised([x, logits], lambda: matching.squared(x, logits.softmax(1)), budget)
        return _End(x.detach().numpy(), logits.detach().argmax(1).numpy(), *end)

    def _minimised(
        self, unknowns: list[Tensor], loss: Callable[[], Tensor], budget: Budget
    ) -> tuple[float, bool, int]:
        """The loss at the end, whether it ended by itself, and after how many steps."""
        optimiser = torch.optim.LBFGS(
            unknowns,
            max_iter=_STEPS_AT_ONCE,
            history_size=self.history,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )

        def evaluated() -> Tensor:
            optimiser.zero_grad()
            value = loss()
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach()

        now, steps = float("inf"), 0
        while steps < self.steps and not budget.spent:
            before = float(optimiser.step(evaluated))  # type: ignore[no-untyped-call]
            steps += _STEPS_AT_ONCE
            with torch.no_grad():
                now = float(loss())
            if not now < (1 - _LEAST_PROGRESS) * before:
                return now, True, steps
        return now, False, steps


@dataclass(frozen=True, eq=False)
class _End:
    """Where a restart ended."""

    inputs: NDArray
    labels: NDArray
    loss: float
    converged: bool
    steps: int
