"""Inverting Gradients: images by the direction of the gradient (Geiping et al., arXiv:2003.14053)."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.candidates import best_scale, labels_to_try, obstacle_to_trying, random_inputs
from fedeff.audit.attacks.least_squares import Descent, Stopping, descend
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import Public, ServerView
from fedeff.core.errors import AuditError, ConfigError
from fedeff.models.threads import one_thread

__all__ = ["InvertingGradients", "total_variation"]

_DROPS, _FACTOR = (3 / 8, 5 / 8, 7 / 8), 0.1  # of the step size, at these parts of the iterations
# Kinks of rectifiers stop Gauss-Newton steps, so the last ones first go by a network that is nearly smooth.
_WIDTHS = (1e-3, 0.0)
_LAST_STEPS, _DAMPING = Stopping(20, 1e-20, 1e-3), 1e-2
_FITS = 1e-5  # squared residual, each layer over its norm, after which no restart follows
_DENSE = 1024  # unknowns up to which they take the whole Jacobian
_TRIALS = 4  # iterations by which the time of one is measured


@dataclass(frozen=True)
class InvertingGradients:
    """Images whose gradient points where the client's does, by descent on `1 - cos + alpha TV` (eq. 4).

    Adam on the sign of the gradient, `step_size` times 0.1 at 3/8, 5/8 and 7/8 of the iterations, images
    kept in their range. Of a change after several local steps it is the change that is matched, through
    the unrolled steps (section 6). Up to `restarts` begin at other images, until one fits; the one of
    least `1 - cos` is told. Labels come first, analytically, where they are not known; where nothing betrays
    that of a single row, restarts go through the classes. `alpha` weighs the mean total variation, which is
    none where the inputs are no images.

    What comes out is blurred by the prior. With `polish`, where no noise is on record, damped Gauss-Newton
    steps on the difference itself follow (not in the paper), and count where they bring it down.

    Good where a second-order attack is lost from the start: rectifiers, many unknowns. Slow. Where the
    budget does not hold all iterations fewer are planned from the time that one takes, so that the steps
    still become small; then two runs may differ.
    """

    iterations: int = 600
    restarts: int = 4
    alpha: float = 1e-3
    step_size: float = 0.1
    polish: bool = True
    name: str = "inverting-gradients"

    def __post_init__(self) -> None:
        for field, value in (("iterations", self.iterations), ("restarts", self.restarts)):
            if value < 1:
                raise ConfigError(f"{field} is {value}; inverting-gradients needs at least 1")
        if self.alpha < 0:
            raise ConfigError(f"alpha is {self.alpha}; inverting-gradients needs at least 0")
        if self.step_size <= 0:
            raise ConfigError(f"step_size is {self.step_size}; it must be above 0")

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        return obstacle_to_trying(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The images of the restart with the least loss, and the labels they were sought under."""
        began = time.monotonic()
        if obstacle := self.obstacle(view):
            raise AuditError(f"inverting-gradients cannot run: {obstacle}")
        matching = Matching(view)
        tried = [torch.from_numpy(np.asarray(one)) for one in labels_to_try(view, matching.rows)]
        restarts = max(self.restarts, len(tried))
        with one_thread():
            planned = self._planned(matching, tried[0], view.public, budget, restarts)
            sharp = self._sharpened(view)
            ends: list[_End] = []
            while len(ends) < restarts and not (ends and (ends[-1].fits or budget.spent)):
                start, y = random_inputs(view, matching, rng), tried[len(ends) % len(tried)]
                end = self._descend(matching, y, start, view.public, planned, budget)
                ends.append(_polished(sharp, end, y, view.public, budget) if sharp else end)
        place = min(range(len(ends)), key=lambda at: (not ends[at].fits, ends[at].loss))
        best, y = ends[place], tried[place % len(tried)]
        done = sum(end.iterations for end in ends)
        facts = {"iterations": float(done), "restarts": float(len(ends))}
        converged = best.fits or done == self.iterations * restarts
        seconds = time.monotonic() - began
        return Finding(self.name, best.x.numpy(), y.numpy(), best.loss, converged, seconds, facts)

    def _sharpened(self, view: ServerView) -> list[Matching]:
        """What the last steps go by: the network all but as it is, then as it is; none under noise."""
        if not self.polish or best_scale(view) != "layer":
            return []
        return [Matching(view, smoothing=width) for width in _WIDTHS]

    def _planned(self, matching: Matching, y: Tensor, public: Public, budget: Budget, restarts: int) -> int:
        """Iterations of each restart: all, or as many as the budget seems to hold."""
        x = torch.full((len(y), *matching.shape), (public.lowest + public.highest) / 2, dtype=torch.float64)
        times_s = []
        for _ in range(_TRIALS):
            began = time.monotonic()
            self._gradient(matching, x, y)
            times_s.append(time.monotonic() - began)
        each_s = min(times_s)  # the first of a process takes much longer than those that follow
        return max(1, min(self.iterations, int(budget.left_s / (each_s * restarts))))

    def _descend(
        self, matching: Matching, y: Tensor, x: Tensor, public: Public, planned: int, budget: Budget
    ) -> "_End":
        """The images and the loss that descent ends with, and the iterations it took."""
        x = x.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=self.step_size * (public.highest - public.lowest))
        drops = [math.ceil(part * planned) for part in _DROPS]
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, drops, _FACTOR)
        done = 0
        while done < planned and not budget.spent:
            x.grad = self._gradient(matching, x, y).sign()
            adam.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(public.lowest, public.highest)
            done += 1
        with torch.no_grad():
            loss = float(matching.cosine(x, y))
        return _End(x.detach(), loss, done)

    def _gradient(self, matching: Matching, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss(matching, x, y), x)
        return gradient

    def _loss(self, matching: Matching, x: Tensor, y: Tensor) -> Tensor:
        return matching.cosine(x, y) + self.alpha * total_variation(x)


@dataclass(frozen=True, eq=False)
class _End:
    """Where one restart ended: `loss` is `1 - cos`, and it `fits` where it explains all that came."""

    x: Tensor
    loss: float
    iterations: int
    fits: bool = False


def _polished(path: list[Matching], end: _End, y: Tensor, public: Public, budget: Budget) -> _End:
    """The end after Gauss-Newton steps along the path, where these bring the residual down."""
    at, real = Descent(end.x, damping=_DAMPING), path[-1]
    for matching in path:
        at = replace(at, damping=max(at.damping, _DAMPING / 10))
        at = descend(matching, at, y, budget, _LAST_STEPS, dense=_DENSE)
    x = at.x.clamp(public.lowest, public.highest)
    with torch.no_grad():
        left = float(real.squared(x, y))
        if left >= float(real.squared(end.x, y)):
            return end
        return _End(x, float(real.cosine(x, y)), end.iterations, left < _FITS)


def total_variation(x: Tensor) -> Tensor:
    """The mean absolute difference of neighbours along height and along width, summed; 0 for no images.

    `x` is (n, channels, height, width), of any number of channels.
    """
    if x.dim() != 4:
        return x.new_zeros(())
    return sum((x.diff(dim=side).abs().mean() for side in (2, 3) if x.shape[side] > 1), x.new_zeros(()))
