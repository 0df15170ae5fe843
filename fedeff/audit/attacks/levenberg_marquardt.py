"""Levenberg-Marquardt on the difference between what the client sent and what candidates would have sent."""

import time
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.candidates import best_scale, labels_to_try, obstacle_to_trying, random_inputs
from fedeff.audit.attacks.least_squares import Descent, Stopping, descend
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching
from fedeff.audit.replay.targets import Bounds
from fedeff.audit.view import ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["LevenbergMarquardt"]

_NEAR = 0.01  # squared residual, each layer over its norm, from which on the wire's rounding counts


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Rebuilds inputs by damped Gauss-Newton steps; the best there is for small models and few unknowns.

    Converges in some ten steps on smooth networks, to the accuracy of the wire (Levenberg, 1944;
    Marquardt, 1963; the residual is that of DLG, arXiv:1906.08935, each layer over its norm, or each entry
    over the noise that is on record). Rectifiers and pooling by the largest, whose kinks stop such steps,
    are followed from smooth ones: `widths`, the last of which is 0. Restarts from other random inputs until
    one fits or the next would outlast the budget, ranked by the loss alone. Where nothing betrays the label
    of a single row, restarts go through the classes. Inputs of more than `dense` entries in all are sought by
    conjugate gradients. Not for large batches nor for networks that squash what the inputs differ in.
    """

    name: str = "levenberg-marquardt"
    restarts: int = 40  # at most, as far as the budget goes
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
        return obstacle_to_trying(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The inputs with the smallest loss of all restarts. Raises AuditError where there is an obstacle."""
        if obstacle := self.obstacle(view):
            raise AuditError(obstacle)
        began = time.monotonic()
        with one_thread():
            ways, wire = self._ways(view, rng)
            real = wire or ways[0][-1]
            tried = [torch.from_numpy(np.asarray(one)) for one in labels_to_try(view, real.rows)]
            ends: list[tuple[Descent, Tensor]] = []
            while len(ends) < max(self.restarts, len(tried)):
                y = tried[len(ends) % len(tried)]
                way = ways[len(ends) // len(tried) % len(ways)]
                ends.append((self._followed(way, wire, random_inputs(view, real, rng), y, budget), y))
                fits = ends[-1][0].loss <= self.fits * real.expected
                # One that would be cut short would only spend what is left.
                if fits or budget.left_s < (time.monotonic() - began) / len(ends):
                    break
            best, y = min(ends, key=lambda end: end[0].loss)
            loss = float(Matching(view, scale=best_scale(view)).squared(best.x, y))
        public, steps = view.public, sum(end.steps for end, _ in ends)
        inputs = best.x.numpy().clip(public.lowest, public.highest)
        facts = {"restarts": float(len(ends)), "steps": float(steps)}
        seconds = time.monotonic() - began
        converged = fits or (best.converged and len(ends) >= len(tried))
        return Finding(self.name, inputs, y.numpy(), loss, converged, seconds, facts)

    def _ways(
        self, view: ServerView, rng: np.random.Generator
    ) -> tuple[list[list[Matching]], Matching | None]:
        """What is descended one after the other: smooth networks to the real one; and at last the wire.

        Layers of equal weight lead there from afar. Near the end each entry counts by how exactly it came:
        where no noise is on record that is what a float32 rounds, worth some 15 dB of a batch. None where
        noise counts all the way, or where conjugate gradients find no such digits anyway.

        Bounds that are met and left bend the way; they say which of the ends there is the one. So restarts
        go there by turns with the middle of its bounds in the place of what is not known, and without it.
        """
        scale = best_scale(view)
        whole = Matching(view, scale=scale)
        y = torch.from_numpy(np.asarray(labels_to_try(view, whole.rows)[0]))
        widths, bounds = self._widths(whole, view, y, rng), list[Bounds](["centre", "none"])
        ways = [
            [Matching(view, scale=scale, smoothing=width, bounds=one) for width in widths]
            + [whole] * whole.bounded
            for one in bounds[: 1 + whole.bounded]
        ]
        if scale == "noise" or whole.rows * prod(whole.shape) > self.dense:
            return ways, None
        return ways, Matching(view, scale="noise")

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

    def _followed(
        self, way: list[Matching], wire: Matching | None, x: Tensor, y: Tensor, budget: Budget
    ) -> Descent:
        """Where the minimum goes as the network becomes what it is, and its loss by the wire's rounding."""
        at = Descent(x, damping=self.damping)
        for matching in way:
            last = matching is way[-1]
            if budget.spent and not last:
                continue
            # A minimum that only points the way need not be found to the last digit.
            enough = matching.expected if last and wire is not None else self.enough
            rule = Stopping(self.steps, enough, self.on_the_way if matching.smooth else self.progress)
            at = replace(at, damping=max(at.damping, self.damping / 10))
            at = descend(matching, at, y, budget, rule, dense=self.dense)
        if wire is None:
            return at
        if not at.loss < _NEAR:
            # Far from an answer its last digits are worth no step: it is only ranked.
            return replace(at, loss=float(wire.squared(at.x, y)))
        at = replace(at, damping=max(at.damping, self.damping / 10))
        rule = Stopping(self.steps, self.enough, self.progress)
        return descend(wire, at, y, budget, rule, dense=self.dense)
