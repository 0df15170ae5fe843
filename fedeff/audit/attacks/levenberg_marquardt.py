"""Levenberg-Marquardt on the difference between what the client sent and what candidates would have sent."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.candidates import best_scale, known_labels, obstacle_to_optimising, random_inputs
from fedeff.audit.attacks.least_squares import Descent, Stopping, descend
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["LevenbergMarquardt"]


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Rebuilds inputs by damped Gauss-Newton steps; the best there is for small models and few unknowns.

    Converges in some ten steps on smooth networks, to the accuracy of the wire (Levenberg, 1944;
    Marquardt, 1963; the residual is that of DLG, arXiv:1906.08935, each layer over its norm, or each entry
    over the noise that is on record). Rectifiers and pooling by the largest, whose kinks stop such steps,
    are followed from smooth ones: `widths`, the last of which is 0. Restarts from other random inputs until
    one fits, ranked by the loss alone. Inputs of more than `dense` entries in all are sought by conjugate
    gradients. Not for large batches nor for networks that squash what the inputs differ in.
    """

    name: str = "levenberg-marquardt"
    restarts: int = 4
    steps: int = 40  # at each width
    widths: tuple[float, ...] = (0.03, 0.01, 0.003, 0.001, 0.0)
    damping: float = 1e-2
    enough: float = 1e-20  # the loss at which nothing is left to gain
    progress: float = 1e-4  # of the loss: a step that gains less is the last
    on_the_way: float = 0.01  # the same at all widths but the last
    fits: float = 4.0  # times the loss that noise and rounding make: below it no restart follows
    dense: int = 1024

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        return obstacle_to_optimising(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The inputs with the smallest loss of all restarts. Raises AuditError where there is an obstacle."""
        if obstacle := self.obstacle(view):
            raise AuditError(obstacle)
        began, scale = time.monotonic(), best_scale(view)
        with one_thread():
            matching = Matching(view, scale=scale)
            labels = known_labels(view, matching.rows)
            y = torch.from_numpy(np.asarray(labels))
            path = [
                Matching(view, scale=scale, smoothing=width) for width in self._widths(matching, view, y, rng)
            ]
            ends: list[Descent] = []
            for _ in range(self.restarts):
                ends.append(self._followed(path, random_inputs(view, matching, rng), y, budget))
                if budget.spent or ends[-1].loss <= self.fits * matching.expected:
                    break
        best = min(ends, key=lambda end: end.loss)
        public, steps = view.public, sum(end.steps for end in ends)
        inputs = best.x.numpy().clip(public.lowest, public.highest)
        facts = {"restarts": float(len(ends)), "steps": float(steps)}
        seconds = time.monotonic() - began
        return Finding(self.name, inputs, np.asarray(labels), best.loss, best.converged, seconds, facts)

    def _widths(
        self, matching: Matching, view: ServerView, y: Tensor, rng: np.random.Generator
    ) -> tuple[float, ...]:
        """All widths where smoothing changes anything; else none is needed."""
        x = random_inputs(view, matching, rng)
        rough, smooth = matching, Matching(view, smoothing=max(self.widths, default=0.0))
        alike = all(
            torch.equal(one[key], other[key])
            for one, other in zip(rough.simulated(x, y), smooth.simulated(x, y), strict=True)
            for key in one
        )
        return (0.0,) if alike else self.widths

    def _followed(self, path: list[Matching], x: Tensor, y: Tensor, budget: Budget) -> Descent:
        """Where the minimum goes as the network becomes what it is."""
        at = Descent(x, damping=self.damping)
        for matching in path:
            # A minimum that only points the way need not be found to the last digit.
            rule = Stopping(
                self.steps, self.enough, self.progress if matching is path[-1] else self.on_the_way
            )
            at = replace(at, damping=max(at.damping, self.damping / 10))
            at = descend(matching, at, y, budget, rule, dense=self.dense)
        return at
