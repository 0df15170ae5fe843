"""How what is told moves with the inputs: the Jacobian of a `Matching`, whole or as a product."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import NDArray

__all__ = ["Linearised", "jacobian", "rank"]


def jacobian(matching: Matching, x: Tensor, y: Tensor, *, columns_at_once: int = 256) -> Tensor:
    """The transposed Jacobian (unknowns, m) of the residual by the inputs, at `x`, float64.

    By forward differentiation of the gradient, so many columns at once. Where rows add up, each
    row's columns come from that row alone, which costs a batch of B as little as B single rows.
    """
    if not matching.separable:
        return _columns(matching.residual, x, y, columns_at_once)
    rows = enumerate(zip(torch.split(x, 1), torch.split(y, 1), strict=True))
    found = torch.cat([
        _columns(partial(matching.share, row=place), *row, columns_at_once) for place, row in rows
    ])  # fmt: skip
    moving = matching.moving(x, y)
    return found if moving is None else found * moving


def _columns(of: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, columns_at_once: int) -> Tensor:
    directions = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)

    def along(direction: Tensor) -> Tensor:
        moved: Tensor = torch.func.jvp(lambda at: of(at, y), (x,), (direction,))[1]
        return moved

    found: Tensor = torch.func.vmap(along, chunk_size=columns_at_once)(directions)
    return found


class Linearised:
    """The residual near `x` as a linear function and its transpose, without the matrix.

    One product costs about one gradient; right for more unknowns than the whole Jacobian has room for.
    """

    def __init__(self, matching: Matching, x: Tensor, y: Tensor) -> None:
        self._x = x.detach().requires_grad_(True)
        self._out = matching.residual(self._x, y)
        self._probe = torch.zeros_like(self._out, requires_grad=True)
        # Linear in the probe: differentiated by it once more it gives the product with the Jacobian.
        (self._back,) = torch.autograd.grad(self._out, self._x, self._probe, create_graph=True)

    @property
    def residual(self) -> Tensor:
        """The residual at `x`, (m,)."""
        return self._out.detach()

    def forward(self, direction: Tensor) -> Tensor:
        """The Jacobian times a direction of the shape of `x`, (m,)."""
        (moved,) = torch.autograd.grad(self._back, self._probe, direction, retain_graph=True)
        return moved

    def back(self, errors: Tensor) -> Tensor:
        """The transposed Jacobian times errors (m,), of the shape of `x`."""
        (pulled,) = torch.autograd.grad(self._out, self._x, errors, retain_graph=True)
        return pulled


def rank(gram: NDArray, tolerance: float = 1e-10) -> int:
    """How many directions of the inputs what is told depends on, of `J'J` (d, d).

    Eigenvalues below `tolerance` times the largest count as none: singular values of `J` below its root.
    """
    values = np.linalg.eigvalsh(gram)
    return int(np.sum(values > tolerance * max(values[-1], 0.0)))
