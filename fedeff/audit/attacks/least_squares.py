"""Damped Gauss-Newton steps on the residual of a `Matching`."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedeff.audit.finding import Budget
from fedeff.audit.replay.jacobian import Linearised, jacobian
from fedeff.audit.replay.matching import Matching

__all__ = ["Descent", "Stopping", "descend"]

_LEAST_DAMPING, _MOST_DAMPING = 1e-12, 1e7
_EASIER, _HARDER = 7.0, 5.0  # what damping is divided by after a success, times after a failure


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent is: inputs, the loss there, what damping comes next, steps taken, whether it ended."""

    x: Tensor
    loss: float = float("inf")
    damping: float = 1e-2
    steps: int = 0
    converged: bool = False


@dataclass(frozen=True)
class Stopping:
    """When a descent ends: after so many steps, at a loss, or where a step gains less of the loss."""

    most_steps: int
    enough: float
    progress: float


def descend(
    matching: Matching, at: Descent, y: Tensor, budget: Budget, rule: "Stopping", *, dense: int
) -> Descent:
    """The descent after further steps, until the rule or the budget ends it.

    Levenberg-Marquardt: `(J'J + lambda mean(diag J'J) I) step = J'r`. Up to `dense` unknowns by the whole
    Jacobian, beyond by conjugate gradients on products with it. It has converged where a step
    gains too little, or where no damping makes one gain anything. Time is looked at between Jacobians,
    products and trials of a damping, so it outlasts the budget by at most one of them.
    """
    at = replace(at, loss=float(matching.squared(at.x, y)), converged=False)
    for _ in range(rule.most_steps):
        if at.loss <= rule.enough or at.converged or budget.spent:
            break
        if at.x.numel() <= dense:
            system: _Dense | _Products = _Dense(matching, at.x, y)
        else:
            system = _Products(matching, at.x, y, budget)
        at = _step(system, matching, at, y, rule.progress, budget)
    return replace(at, converged=at.converged or at.loss <= rule.enough)


def _step(
    system: "_Dense | _Products", matching: Matching, at: Descent, y: Tensor, progress: float, budget: Budget
) -> Descent:
    """One step, with as much damping as it takes to gain something; none where time is up before that."""
    damping = at.damping
    while damping < _MOST_DAMPING:
        if budget.spent:
            return at
        x = at.x - system.solved(damping)
        loss = float(matching.squared(x, y))
        if loss < at.loss:
            slow = loss > (1 - progress) * at.loss
            return Descent(x, loss, max(damping / _EASIER, _LEAST_DAMPING), at.steps + 1, slow)
        damping *= _HARDER
    return replace(at, steps=at.steps + 1, converged=True)


class _Dense:
    """The normal equations by the whole Jacobian."""

    def __init__(self, matching: Matching, x: Tensor, y: Tensor) -> None:
        columns = jacobian(matching, x, y)
        self._gram, self._slope = columns @ columns.T, columns @ matching.residual(x, y)
        self._shape = x.shape

    def solved(self, damping: float) -> Tensor:
        """The step; none, which gains nothing, where so little damping leaves the system singular."""
        scale = damping * self._gram.diagonal().mean()
        damped = self._gram + scale * torch.eye(len(self._gram), dtype=self._gram.dtype)
        solution, failed = torch.linalg.solve_ex(damped, self._slope)
        return torch.zeros(self._shape, dtype=damped.dtype) if failed else solution.view(self._shape)


class _Products:
    """The normal equations by conjugate gradients (Hestenes & Stiefel, 1952)."""

    _MOST_PRODUCTS = 60
    _ACCURACY = 0.03  # of the slope: the linear model itself is no better before the last steps

    def __init__(self, matching: Matching, x: Tensor, y: Tensor, budget: Budget) -> None:
        self._budget = budget
        self._near = Linearised(matching, x, y)
        self._slope = self._near.back(self._near.residual)
        # Hutchinson's estimate of the mean of the diagonal, by one random direction.
        signs = torch.ones_like(x)
        signs.view(-1)[torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))[::2]] = -1
        self._mean_diagonal = float(self._near.forward(signs).square().sum()) / x.numel()

    def solved(self, damping: float) -> Tensor:
        solution, left = torch.zeros_like(self._slope), self._slope.clone()
        direction, size = left.clone(), float(left.square().sum())
        goal = self._ACCURACY**2 * size
        for _ in range(self._MOST_PRODUCTS):
            if size <= goal or self._budget.spent:
                break
            pushed = (
                self._near.back(self._near.forward(direction)) + damping * self._mean_diagonal * direction
            )
            rate = size / float((direction * pushed).sum())
            solution, left = solution + rate * direction, left - rate * pushed
            before, size = size, float(left.square().sum())
            direction = left + (size / before) * direction
        return solution
