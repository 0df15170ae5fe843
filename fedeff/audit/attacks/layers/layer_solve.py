"""What one layer read, from its gradient and from what came out of it, also through pooling."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor

from fedeff.audit.attacks.dense_front import Gradient
from fedeff.audit.attacks.layers.layer_patches import Patches
from fedeff.audit.finding import Budget

__all__ = ["Outcome", "Solved", "solved"]

_ROUNDS = 25  # of places and inputs in turns, at most
_EVIDENCE = 8.0  # a filter's equations count as so many: they share the errors of what was read
_FLOOR = 0.1  # of the mean squared error: no filter is trusted beyond it
_EXACT = 1e-9  # squared relative residual at which places are settled
_ROUGH = (1e-5, 60)  # LSMR's tolerance and iterations on the way
_FINE, _PASSES = 1e-14, 10  # the last tolerance, and iterations for each unknown
_POOLED = 1e-9  # the last tolerance where places were sought: below the wire, and dear beyond
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is known of a layer's outputs once they are pooled, each (windows, outputs).

    `z` where `seen`; `off` where it is known to be at most 0. `back` is `dL/dz`.
    """

    z: Tensor
    seen: Tensor
    off: Tensor
    back: Tensor


@dataclass(frozen=True, eq=False)
class Solved:
    """What a layer read, `dL/d` of it, the error that its entries may have, and LSMR's iterations."""

    x: Tensor
    back: Tensor
    error: float
    iterations: int


def solved(
    patches: Patches,
    told: Gradient,
    outcome: Outcome,
    start: Tensor,
    bounds: tuple[float, float],
    budget: Budget,
) -> Solved:
    """The x of a layer's shape that explains its weight's gradient and what it gave, within bounds.

    Both kinds of constraints are linear where one knows which place of each window was the largest. That
    is sought in turns with x: given x, the chance of each place by how much it explains of the gradient of
    its filter and of what came out (mean field), under errors as large as those that are left; given
    chances, least squares, each filter weighed by its error. Few places that are wrong show as filters
    that do not fit, and lose their weight. Outputs that were off, and other places of a window, only bound
    x: an equation where the last x was beyond.
    """
    search = _Search(patches, told, outcome, start, bounds)
    rounds = _ROUNDS if patches.places > 1 or bool(outcome.off.any()) else 0
    for _ in range(rounds):
        search.solve(*_ROUGH)
        if not search.improve() or budget.spent:
            break
    search.settle()
    pooled = patches.places > 1
    search.solve(_POOLED if pooled else _FINE, (1 if pooled else _PASSES) * start.numel())
    return search.found()


class _Search:
    """The x and the chances of places at hand."""

    def __init__(
        self, patches: Patches, told: Gradient, outcome: Outcome, start: Tensor, bounds: tuple[float, float]
    ) -> None:
        self._patches, self._outcome, self._bounds = patches, outcome, bounds
        self._known = torch.from_numpy(told.known).reshape(patches.weight.shape)
        self._told = torch.where(self._known, torch.from_numpy(told.values).reshape(self._known.shape), 0.0)
        windows, outputs = outcome.back.shape
        self._chances = torch.full(
            (windows, patches.places, outputs), 1 / patches.places, dtype=torch.float64
        )
        self._best = self._chances.argmax(1)
        self._x, self._iterations = start, 0
        self._beyond = torch.zeros(self._chances.shape, dtype=torch.bool)  # places above what came out
        self._outside = torch.zeros(start.shape, dtype=torch.bool)
        self._ceiling = torch.where(outcome.seen, outcome.z, 0.0)[:, None]
        self._bounded = (outcome.off | (outcome.seen if patches.places > 1 else False))[:, None]
        length = float(self._spread().norm()) or 1.0  # where nothing comes back the gradient tells nothing
        self._by_filter = torch.full((outputs,), 1 / length, dtype=torch.float64)
        share = float(outcome.seen.double().mean().clamp_min(0.01)) / patches.places
        self._by_output = 1 / float(patches.weight.norm() * (share / patches.channels) ** 0.5 + _TINY)

    def _spread(self) -> Tensor:
        """`dL/dz` at each place, (windows, places, outputs)."""
        return self._chances * self._outcome.back[:, None]

    def solve(self, tolerance: float, most: int) -> None:
        """Least squares for x."""
        patches, seen, beyond, outside = self._patches, self._outcome.seen, self._beyond, self._outside
        spread = self._spread().flatten(0, 1)
        known, by_filter, by_output = self._known, self._by_filter[:, None], self._by_output
        by_bound = by_output * float(patches.weight.norm()) / patches.channels**0.5
        counts = [int(one.sum()) for one in (known, seen, beyond, outside)]

        def rows(gradient: Tensor, z: Tensor, x: Tensor) -> np.ndarray:
            pooled = (self._chances * z).sum(1)
            parts = ((by_filter * gradient)[known], by_output * pooled[seen], by_output * z[beyond])
            return torch.cat([*parts, by_bound * x[outside]]).numpy()

        def forward(flat: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(flat).reshape(self._x.shape)
            u = patches.of(x)
            return rows(spread.T @ u.flatten(0, 1), u @ patches.weight.T, x)

        def adjoint(flat: np.ndarray) -> np.ndarray:
            of_gradient, of_seen, of_beyond, of_x = torch.split(torch.from_numpy(flat), counts)
            gradient, pooled = torch.zeros_like(patches.weight), torch.zeros_like(self._outcome.z)
            z, x = torch.zeros_like(self._chances), torch.zeros_like(self._x)
            gradient[known], pooled[seen] = of_gradient, of_seen
            z[beyond], x[outside] = of_beyond, by_bound * of_x
            z = by_output * (z + self._chances * pooled[:, None])
            u = (spread @ (by_filter * gradient)).reshape(*z.shape[:2], -1) + z @ patches.weight
            return (patches.back(u) + x).flatten().numpy()

        near = self._x.clamp(*self._bounds)
        ceiling = (self._ceiling - patches.bias).expand_as(self._chances)
        target = rows(self._told, ceiling, near)
        shape = (len(target), near.numel())
        operator = LinearOperator(shape, matvec=forward, rmatvec=adjoint, dtype=np.float64)
        found, _, used, *_ = lsmr(
            operator,
            target,
            atol=tolerance,
            btol=tolerance,
            conlim=0,
            maxiter=most,
            x0=self._x.flatten().numpy(),
        )
        self._x = torch.from_numpy(found).reshape(self._x.shape)
        self._iterations += int(used)

    def improve(self) -> bool:
        """Chances and weights for the x at hand; whether another x is to be sought."""
        self._outside = (self._x < self._bounds[0]) | (self._x > self._bounds[1])
        u = self._patches.of(self._x.clamp(*self._bounds))
        z = u @ self._patches.weight.T + self._patches.bias
        left = self._left(u)
        if self._patches.places > 1:
            left = self._weighed(u, z, left)
        errors = left.square().sum(1) / self._known.sum(1).clamp_min(1)
        errors = errors + _FLOOR * errors.mean() + _TINY
        missed = self._missed(z)
        before, settled = self._beyond, self._best
        # A place that was chosen has an equation of its own.
        self._beyond = (
            self._bounded & (z > self._ceiling) & ((self._chances < 0.5) | ~self._outcome.seen[:, None])
        )
        self._by_filter, self._by_output = errors.rsqrt(), missed**-0.5
        fits = float(left.square().sum()) <= _EXACT * float(self._told.square().sum())
        self._best = self._chances.argmax(1)
        return not (torch.equal(before, self._beyond) and (fits or torch.equal(settled, self._best)))

    def _left(self, u: Tensor) -> Tensor:
        """What x does not explain of the weight's gradient, (outputs, entries)."""
        return (self._told - self._spread().flatten(0, 1).T @ u.flatten(0, 1)) * self._known

    def _missed(self, z: Tensor) -> float:
        """The mean squared error of what came out; 1 where nothing of it is known."""
        seen = self._outcome.seen
        if not bool(seen.any()):
            return 1.0
        missed = torch.where(seen, self._outcome.z - (self._chances * z).sum(1), 0.0).square()
        return float(missed.sum() / seen.sum()) + _TINY

    def _weighed(self, u: Tensor, z: Tensor, left: Tensor) -> Tensor:
        """New chances, window by window, twice; returns what is then left of the gradient."""
        entries = self._known.sum(1).clamp_min(1)
        errors = left.square().sum(1) / entries
        errors = (errors + _FLOOR * errors.mean() + _TINY) * entries / _EVIDENCE
        short = F.relu(self._ceiling - z).square() / self._missed(z)
        known = self._known.double()
        for window in [*range(len(u))] * 2:
            here, back = u[window], self._outcome.back[window]
            left = left + back[:, None] * (self._chances[window].T @ here) * known
            gain = back**2 * (here.square() @ known.T) - 2 * back * (here @ left.T)
            chances = torch.softmax(-(gain / errors + short[window]) / 2, 0)
            self._chances[window] = chances
            left = left - back[:, None] * (chances.T @ here) * known
        return left

    def settle(self) -> None:
        """The likeliest place of each window alone."""
        if self._patches.places > 1:
            best = self._chances.argmax(1)
            self._chances = F.one_hot(best, self._patches.places).transpose(1, 2).to(self._chances)

    def found(self) -> Solved:
        """The x at hand with what comes back to it."""
        spread = self._spread()
        error = (self._left(self._patches.of(self._x)).square().sum() / self._known.sum().clamp_min(1)).sqrt()
        size = float(spread.norm().clamp_min(_TINY))
        x = self._x.clamp(*self._bounds)
        return Solved(
            x, self._patches.back(spread @ self._patches.weight), float(error) / size, self._iterations
        )
