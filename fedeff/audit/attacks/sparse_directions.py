"""The sparse columns behind a low-rank matrix: the linear algebra of SPEAR, on arrays alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fedeff.audit.view import NDArray

__all__ = ["Factors", "candidates", "distinct", "factorise", "select", "swapped", "zeros_of"]

_SIGNIFICANT = 3.0  # times the norm that errors alone would have: a singular value above it is signal
_LOOSE, _STANDARD_ERRORS = 1e-4, 5.0
_REFINEMENTS = 2
_FITTED = 64  # directions of a draw that are worth fitting, those of most zeros
_SAME = 1 - 1e-7  # cosine of two directions that are one
_INDEPENDENT = 1e-5  # smallest singular value of unit directions that span


@dataclass(frozen=True, eq=False)
class Factors:
    """`matrix ~ left @ right`: left (m, rank), right (rank, n) with orthonormal rows.

    An entry of `left` has the error of an entry of the matrix, so `left @ q` has `error * |q|`.
    """

    left: NDArray
    right: NDArray
    error: float

    @property
    def rank(self) -> int:
        """How many directions stand out of the errors."""
        return int(self.left.shape[1])


def factorise(matrix: NDArray, most: int, error: float) -> Factors:
    """The factors of a matrix (m, n) of rank at most `most` whose entries have this standard error."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    floor = _SIGNIFICANT * error * sum(np.sqrt(matrix.shape))
    rank = int(min(most, (s > max(floor, 1e-14 * s.max(initial=0.0))).sum()))
    return Factors(u[:, :rank] * s[:rank], vt[:rank], error)


def zeros_of(factors: Factors, directions: NDArray) -> NDArray:
    """Which entries of `left @ q` are zero within errors, for unit directions (n, rank): booleans (n, m)."""
    values = directions @ factors.left.T
    size = np.sqrt(np.mean(values**2, axis=1, keepdims=True))
    return np.asarray(np.abs(values) <= np.maximum(_STANDARD_ERRORS * factors.error, _LOOSE * size))


def candidates(factors: Factors, samples: int, rng: np.random.Generator) -> NDArray:
    """Unit directions (found, rank) that `left` maps to more zeros than were asked for, most first.

    Each sample takes the kernel of rank - 1 random rows: where these rows are zero in one column of the
    sparse matrix, the kernel is that column's direction, and other rows are zero as well. What was
    found is then fitted to all its zeros. Rows that are zero altogether must be gone before.
    """
    left, rank = factors.left, factors.rank
    if rank == 1:
        return np.ones((1, 1))
    # After a rotation no direction that is looked for has a vanishing last coordinate.
    rotation = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    turned = Factors(left @ rotation, rotation.T @ factors.right, factors.error)
    q = _kernels(turned.left, samples, rng)
    zeros = zeros_of(turned, q)
    count = zeros.sum(1)
    order = np.argsort(-count, kind="stable")[: int((count > rank).sum())]
    # The same direction comes up often; once is enough.
    _, first = np.unique(zeros[order], axis=0, return_index=True)
    fitted = (_fitted(turned, q[order[place]]) for place in np.sort(first)[:_FITTED])
    return distinct([one @ rotation.T for one in fitted if one is not None], rank)


def _kernels(left: NDArray, samples: int, rng: np.random.Generator) -> NDArray:
    """The kernels (at most samples, rank), of length 1, of rank - 1 random rows each."""
    rank = left.shape[1]
    rows = np.argpartition(rng.random((samples, len(left))), rank - 2, axis=1)[:, : rank - 1]
    taken = torch.from_numpy(left[rows])
    solved, info = torch.linalg.solve_ex(taken[:, :, :-1], -taken[:, :, -1])
    q = np.concatenate([solved.numpy(), np.ones((samples, 1))], 1)
    q = q[(info == 0).numpy() & np.isfinite(q).all(1)]
    return np.asarray(q / np.linalg.norm(q, axis=1, keepdims=True))


def _fitted(factors: Factors, q: NDArray) -> NDArray | None:
    """The direction that fits all of its zeros at once, None where these do not determine it."""
    for _ in range(_REFINEMENTS):
        rows = factors.left[zeros_of(factors, q[None])[0]]
        if len(rows) < factors.rank:
            return None
        _, s, vt = np.linalg.svd(rows)
        if s[-2] <= 1e-6 * s[0]:
            return None
        q = vt[-1]
    return q


def distinct(directions: list[NDArray], rank: int) -> NDArray:
    """Each direction once, (n, rank), whichever way it points; the first of those that are one."""
    kept = np.zeros((0, rank))
    for one in directions:
        if not len(kept) or np.abs(kept @ one).max() < _SAME:
            kept = np.vstack([kept, one])
    return kept


def select(directions: NDArray, rank: int) -> list[int]:
    """The places of the first directions that are independent of those before, at most `rank`."""
    chosen: list[int] = []
    for place in range(len(directions)):
        if _independent(directions[[*chosen, place]]):
            chosen.append(place)
        if len(chosen) == rank:
            break
    return chosen


def swapped(
    directions: NDArray, chosen: list[int], score: Callable[[NDArray], float]
) -> tuple[list[int], float]:
    """The choice after exchanging one direction for another as long as that gives a better score."""
    best, current = score(directions[chosen]), list(chosen)
    while best < 1:
        trials = (
            [*current[:place], other, *current[place + 1 :]]
            for place in range(len(current))
            for other in range(len(directions))
            if other not in current
        )
        scored = [(score(directions[trial]), trial) for trial in trials]
        top = max(scored, default=(best, current), key=lambda one: one[0])
        if top[0] <= best:
            break
        best, current = top
    return current, best


def _independent(directions: NDArray) -> bool:
    return bool(np.linalg.svd(directions, compute_uv=False)[-1] > _INDEPENDENT)
