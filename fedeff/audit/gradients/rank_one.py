"""A matrix of rank one from some of its entries."""

import numpy as np

from fedeff.audit.view import NDArray

__all__ = ["rank_one"]

_ALTERNATIONS = 200
_SETTLED = 1e-12  # relative: a change of the factors below that is rounding
_TINY = 1e-300


def rank_one(values: NDArray, start: NDArray, noise: float = 0.0) -> tuple[NDArray, NDArray]:
    """Factors (n,) and (m,) whose outer product is nearest to the known (finite) entries of `values` (n, m).

    Alternating least squares from the second factor `start`, whose first entry or, where nothing of the
    first column is known, whose norm the second factor keeps. Entries of it that nothing tells stay as
    they began. With noise or a matrix of more rank it is a fit; exact for a matrix of rank one whose known
    entries hang together.

    With `noise`, the standard deviation of the known entries, the second factor is the likeliest of those
    that are beforehand Gaussian around `start` and as far from it as that is long: of a matrix that is
    all noise it stays there, and the first factor is then what `start` reads off the matrix.
    """
    known = np.isfinite(values)
    given, second = np.where(known, values, 0.0), start
    leads = bool(known[:, 0].any())
    first = np.zeros(len(values))
    held = noise**2 / max(float(np.mean(start**2)), _TINY)
    for _ in range(_ALTERNATIONS):
        before = second
        first = given @ second / np.maximum(known @ second**2, _TINY)
        told = known.T @ first**2 + held
        second = np.where(told > _TINY, (given.T @ first + held * start) / np.maximum(told, _TINY), second)
        if leads and noise:
            second[0] = start[0]  # known, and not to be read off noise
        scale = second[0] / start[0] if leads else np.linalg.norm(second) / np.linalg.norm(start)
        if abs(scale) > _TINY:
            second, first = second / scale, first * scale
        if np.abs(second - before).max() <= _SETTLED * np.abs(second).max():
            break
    return first, second
