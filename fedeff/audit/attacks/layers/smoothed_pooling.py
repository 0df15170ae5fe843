"""What a layer read that is pooled by the largest, followed from a smoothed maximum to the true one.

Where the places of the largest are not known they are a combinatorial question, whose search in turns with
the input gets stuck where a layer has few filters. The smoothed maximum `s log sum exp(z / s)` has no such
question: its fit to what came out is a least squares problem that is nearly linear for large s, and as
s falls its solution leads to places that agree. The last ones that do not are outliers among exact
equations, which robust weights leave out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor

from fedeff.audit.attacks.dense_front import Gradient
from fedeff.audit.attacks.layers.layer_patches import Patches
from fedeff.audit.attacks.layers.layer_solve import Outcome, Solved
from fedeff.audit.finding import Budget

__all__ = ["followed"]

_WIDTHS = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # of the smoothed maximum, by the spread of outputs
_ROBUST = (0.3, 0.1, 0.03, 0.01, 0.003, 1e-3, 1e-4, 1e-5)  # errors beyond which an equation loses weight
_VARIATIONS = (0.1, 0.0)  # weight of the total variation while the maximum is smooth, one start each
_EDGE = 0.02  # of the range: a step of the image at which its variation counts in full
_ON_THE_WAY, _AT_LAST = (40, 1e-2), (15, 1e-3)  # steps at most, and the gain of the loss that is too small
_DAMPING, _LEAST_DAMPING, _EASIER, _HARDER, _TRIES = 1e-2, 1e-9, 7.0, 5.0, 6
_LSMR = {"atol": 1e-6, "btol": 1e-6, "conlim": 0.0, "maxiter": 150}
_EXACT = 1e-8  # share of what came out that is left, squared, where another start has nothing to gain
_TINY = 1e-300


@dataclass(frozen=True)
class _Stage:
    """One problem on the way: the width of the maximum, the robust error (0: none), and its other terms."""

    width: float
    robust: float = 0.0
    variation: float = 0.0
    gradient: bool = False
    steps: int = _ON_THE_WAY[0]
    gain: float = _ON_THE_WAY[1]


def followed(
    patches: Patches,
    told: Gradient,
    outcome: Outcome,
    start: Tensor,
    bounds: tuple[float, float],
    budget: Budget,
) -> Solved:
    """The x of a layer's shape that explains what came out of it and its weight's gradient, within bounds.

    Graduated non-convexity (Blake & Zisserman, "Visual Reconstruction", 1987) for the equations of COPA
    (arXiv:2111.10178): `max(W x + b) = z` where an output was seen, at most 0 where it was off, and
    at the end `dL/dW = dL/dz * x`. Levenberg-Marquardt steps by LSMR. Once with images of little total
    variation preferred on the way, and, where that does not fit, once without. Not for layers with fewer
    equations than inputs.
    """
    best, least, iterations = start, float("inf"), 0
    for variation in _VARIATIONS:
        path = _Path(patches, told, outcome, bounds)
        x = start
        for stage in _stages(variation):
            x = path.descended(x, stage, budget)
        left = path.left(x)
        iterations += path.iterations
        if left < least:
            best, least = x, left
        if least < _EXACT or budget.spent:
            break
    return path.found(best, iterations)


def _stages(variation: float) -> Iterator[_Stage]:
    for width in _WIDTHS:
        yield _Stage(width, variation=variation * width)
    for robust in _ROBUST:
        yield _Stage(0.0, robust, gradient=True, steps=_AT_LAST[0], gain=_AT_LAST[1])


@dataclass(frozen=True, eq=False)
class _Near:
    """The residuals at an x, in parts, and what their linear parts need: shares of places, steps of x."""

    outputs: Tensor  # (windows, outputs); 0 where nothing is asked
    gradient: Tensor  # (outputs, entries); empty where the stage leaves it out
    outside: Tensor  # of x's shape
    steps: tuple[Tensor, ...]  # between neighbours, by side; empty without variation
    shares: Tensor  # (windows, places, outputs): of the maximum's derivative
    asked: Tensor  # (windows, outputs) of bool


class _Path:
    """One layer's equations, and descents on them."""

    def __init__(
        self, patches: Patches, told: Gradient, outcome: Outcome, bounds: tuple[float, float]
    ) -> None:
        self._patches, self._outcome, self._bounds = patches, outcome, bounds
        self._known = torch.from_numpy(told.known).reshape(patches.weight.shape)
        self._told = torch.where(self._known, torch.from_numpy(told.values).reshape(self._known.shape), 0.0)
        seen = outcome.z[outcome.seen]
        self._size = float(seen.norm()) + _TINY
        spread = float(seen.std()) if len(seen) > 1 else 0.0
        self._scale = max(spread, 0.01 * self._size / max(len(seen), 1) ** 0.5)
        self._by_gradient = self._size / float(self._told.norm().clamp_min(_TINY))
        self._by_bound = float(patches.weight.norm()) / len(patches.weight) ** 0.5
        self._by_step = self._scale / (bounds[1] - bounds[0])
        self._signs = np.random.default_rng(0).choice((-1.0, 1.0), int(np.prod(patches.link.reads)))
        self._damping = _DAMPING
        self.iterations = 0

    def left(self, x: Tensor) -> float:
        """The squared share of what came out that x within bounds does not explain."""
        near = self._near(x.clamp(*self._bounds), _Stage(0.0))
        return float(near.outputs.square().sum()) / self._size**2

    def found(self, x: Tensor, iterations: int) -> Solved:
        """The x within bounds, with what comes back to it."""
        x = x.clamp(*self._bounds)
        near = self._near(x, _Stage(0.0, gradient=True))
        spread = near.shares * self._outcome.back[:, None]
        error = (near.gradient.square().sum() / self._known.sum().clamp_min(1)).sqrt() / self._by_gradient
        size = float(spread.norm().clamp_min(_TINY))
        back = self._patches.back(spread @ self._patches.weight)
        return Solved(x, back, float(error) / size, iterations)

    def descended(self, x: Tensor, stage: _Stage, budget: Budget) -> Tensor:
        """Where damped Gauss-Newton steps lead on one problem."""
        near = self._near(x, stage)
        loss = self._loss(near, stage)
        for _ in range(stage.steps):
            if budget.spent:
                break
            moved = self._moved(x, near, loss, stage)
            if moved is None:
                break
            gain, (x, near, loss) = 1 - moved[2] / (loss + _TINY), moved
            if gain < stage.gain:
                break
        self._damping = max(self._damping, _DAMPING / 10)
        return x

    def _moved(
        self, x: Tensor, near: _Near, loss: float, stage: _Stage
    ) -> tuple[Tensor, _Near, float] | None:
        """A step that brings the loss down; None where no damping makes one."""
        system, errors = self._linear(x, near, stage)
        # Hutchinson's estimate of the mean of the diagonal, by one direction.
        mean_diagonal = float(np.square(system @ self._signs).mean()) * len(errors) / x.numel()
        for _ in range(_TRIES):
            damp = (self._damping * mean_diagonal) ** 0.5
            step, _, used, *_ = lsmr(system, errors, damp=damp, **_LSMR)
            self.iterations += int(used)
            moved = x - torch.from_numpy(step).reshape(x.shape)
            there = self._near(moved, stage)
            after = self._loss(there, stage)
            if after < loss:
                self._damping = max(self._damping / _EASIER, _LEAST_DAMPING)
                return moved, there, after
            self._damping *= _HARDER
        return None

    def _linear(self, x: Tensor, near: _Near, stage: _Stage) -> tuple[LinearOperator, np.ndarray]:
        """The errors near x as a linear function of the input, both by the roots of their weights."""
        patches = self._patches
        spread = self._by_gradient * (near.shares * self._outcome.back[:, None]).flatten(0, 1)
        by_bound, beyond = self._by_bound, (near.outside != 0).to(x)
        errors = (near.outputs, near.gradient, near.outside, *near.steps)
        shares = (stage.robust, stage.robust, 0.0, *[_EDGE] * len(near.steps))
        roots = [self._weights(one, share).sqrt() for one, share in zip(errors, shares, strict=True)]
        for root in roots[3:]:
            root *= (stage.variation / _EDGE) ** 0.5
        roots[0] = roots[0] * near.asked
        if near.gradient.numel():
            roots[1] = roots[1] * self._known
        roots[2] = beyond

        def forward(flat: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(flat).reshape(x.shape)
            told = spread.T @ patches.of(v).flatten(0, 1) if near.gradient.numel() else near.gradient
            parts = [(near.shares * patches.outputs(v)).sum(1), told, by_bound * v, *self._steps(v, stage)]
            return _flat(root * part for root, part in zip(roots, parts, strict=True))

        def adjoint(flat: np.ndarray) -> np.ndarray:
            cut = torch.split(torch.from_numpy(flat), [one.numel() for one in errors])
            of = [root * one.reshape(root.shape) for root, one in zip(roots, cut, strict=True)]
            back = patches.outputs_back(near.shares * of[0][:, None]) + by_bound * of[2]
            if near.gradient.numel():
                back = back + patches.back((spread @ of[1]).reshape(*near.shares.shape[:2], -1))
            for side, one in enumerate(of[3:], start=1):
                back = back + self._by_step * _undiff(one, side)
            return _flat([back])

        weighed = _flat(root * one for root, one in zip(roots, errors, strict=True))
        shape = (sum(one.numel() for one in errors), x.numel())
        return LinearOperator(shape, matvec=forward, rmatvec=adjoint, dtype=np.float64), weighed

    def _near(self, x: Tensor, stage: _Stage) -> _Near:
        patches, outcome = self._patches, self._outcome
        z = patches.outputs(x) + patches.bias
        if stage.width:
            by = stage.width * self._scale
            shares, largest = torch.softmax(z / by, 1), by * torch.logsumexp(z / by, 1)
        else:
            largest, at = z.max(1)
            shares = F.one_hot(at, patches.places).transpose(1, 2).to(z)
        asked = outcome.seen | (outcome.off & (largest > 0))
        outputs = torch.where(asked, largest - torch.where(outcome.seen, outcome.z, 0.0), 0.0)
        gradient = outputs.new_zeros(0, 0)
        if stage.gradient:
            spread = (shares * outcome.back[:, None]).flatten(0, 1)
            gradient = spread.T @ patches.of(x).flatten(0, 1) - self._told
            gradient = self._by_gradient * gradient * self._known
        outside = self._by_bound * (x - x.clamp(*self._bounds))
        return _Near(outputs, gradient, outside, self._steps(x, stage), shares, asked)

    def _steps(self, x: Tensor, stage: _Stage) -> tuple[Tensor, ...]:
        if not stage.variation or x.dim() != 3:
            return ()
        return tuple(self._by_step * x.diff(dim=side) for side in (1, 2))

    def _loss(self, near: _Near, stage: _Stage) -> float:
        fits = (
            self._robust(near.outputs, stage.robust).sum() + self._robust(near.gradient, stage.robust).sum()
        )
        varied = sum(float(self._robust(one, _EDGE).sum()) for one in near.steps)
        return float(fits + near.outside.square().sum()) + stage.variation / _EDGE * varied

    def _robust(self, errors: Tensor, share: float) -> Tensor:
        """Squares of small errors, and in proportion to large ones (pseudo-Huber)."""
        if not share:
            return errors.square()
        edge = share * self._scale
        robust: Tensor = 2 * edge * ((errors.square() + edge**2).sqrt() - edge)
        return robust

    def _weights(self, errors: Tensor, share: float) -> Tensor:
        """By which the squares of errors have the slope of their robust loss."""
        if not share:
            return torch.ones_like(errors)
        edge = share * self._scale
        weights: Tensor = edge * (errors.square() + edge**2).rsqrt()
        return weights


def _flat(parts: Iterable[Tensor]) -> np.ndarray:
    return np.asarray(torch.cat([part.flatten() for part in parts]).numpy())


def _undiff(steps: Tensor, side: int) -> Tensor:
    """The adjoint of `diff` along a side."""
    zero = torch.zeros_like(steps.narrow(side, 0, 1))
    return torch.cat([zero, steps], side) - torch.cat([steps, zero], side)
