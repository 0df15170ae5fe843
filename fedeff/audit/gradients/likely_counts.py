"""How many rows of each class a last layer's gradient speaks for, by what is likely to go into the layer."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from fedeff.audit.gradients.last_layer import Head
from fedeff.audit.view import NDArray

__all__ = ["likely_counts", "tells_likely_counts"]

_STEPS = 3  # of Gauss and Newton, in which the counts settle
_WITHIN = 12  # random inputs that stand for how rows of a class differ
_MOST_EQUATIONS = 800  # beyond that a step takes longer than a label is worth
_LEAST_DIRECTIONS = 4
_STILL = 1e-2  # of the widest: directions along which random inputs hardly differ may still move so far
_UNEXPLAINED = 0.03  # of the gradient's largest entry: rows of a class do not lie about their mean as thought


def tells_likely_counts(head: Head) -> bool:
    """Whether `likely_counts` can be asked: the whole gradient is known exactly, and not too large."""
    classes = len(head.gradient)
    known = bool(np.isfinite(head.gradient).all()) and not head.shortened and not head.std
    return known and len(head.drawn) > _WITHIN and _MOST_EQUATIONS // classes > _LEAST_DIRECTIONS


def likely_counts(head: Head, rows: int) -> NDArray:
    """Counts (classes,) that sum to `rows`, not rounded: a maximum a posteriori estimate.

    What goes into the layer is taken for Gaussian with the mean and covariance that random inputs have; the
    mean of a class's rows is a common shift, a shift of the class and the mean of so many rows' own. The
    gradient of the weights is linear in the counts and nearly so in the means, so Gauss-Newton steps find
    the likeliest means that explain it; the gradient of the bias then gives the counts. It needs
    neither that a class's own rows outweigh the others in its row (iLRG, LLG) nor that the rows be few.
    """
    small = _narrowed(head)
    means = np.tile(small.usual, (len(small.gradient), 1))
    for _ in range(_STEPS):
        chances, moments, slopes = small.expected(means)
        counts = _fitted(chances, small.gradient[:, 0], rows)
        means = small.likeliest(means, counts, rows, moments, slopes)
    return _fitted(small.expected(means)[0], small.gradient[:, 0], rows)


def _fitted(probabilities: NDArray, by_logits: NDArray, rows: int) -> NDArray:
    """Counts k >= 0 with sum `rows` for which `k @ P - k` is nearest to rows times the logits' gradient."""
    system = np.vstack([probabilities.T - np.eye(len(by_logits)), np.ones(len(by_logits))])
    return np.asarray(nnls(system, np.append(rows * by_logits, float(rows)))[0])


@dataclass(frozen=True, eq=False)
class _Narrow:
    """A last layer in the directions in which random inputs differ most.

    `gradient` and `weight` are (classes, 1 + n), `usual` and `widths` (n,) the mean and standard deviation
    along each, `within` (m, n) how rows of one class lie about their mean.
    """

    gradient: NDArray
    weight: NDArray
    usual: NDArray
    widths: NDArray
    within: NDArray
    error: float

    def expected(self, means: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """For each class: mean probabilities, mean gradient of a row, and its slope by the class's mean.

        (classes, classes), (classes, classes, 1 + n) and (classes, classes, 1 + n, n).
        """
        classes, n = means.shape
        inside = means[:, None] + self.within[None]
        inside = np.concatenate([np.ones((*inside.shape[:2], 1)), inside], axis=2)
        logits = inside @ self.weight.T
        raised = np.exp(logits - logits.max(axis=2, keepdims=True))
        chances = raised / raised.sum(axis=2, keepdims=True)
        off = chances - np.eye(classes)[:, None]
        moments = off.transpose(0, 2, 1) @ inside / len(self.within)
        # How the probabilities move: p_i (w_i - sum_j p_j w_j).
        moved = chances[..., None] * (self.weight[:, 1:] - (chances @ self.weight[:, 1:])[:, :, None])
        flat = moved.transpose(0, 2, 3, 1).reshape(classes, -1, len(self.within))
        slopes = (flat @ inside / len(self.within)).reshape(classes, classes, n, 1 + n).swapaxes(2, 3)
        slopes[:, :, np.arange(1, 1 + n), np.arange(n)] += off.mean(axis=1)[:, :, None]
        return chances.mean(axis=1), moments, slopes

    def likeliest(
        self, means: NDArray, counts: NDArray, rows: int, moments: NDArray, slopes: NDArray
    ) -> NDArray:
        """The likeliest means (classes, n) that explain the gradient to first order about these."""
        shares = counts / rows
        scaled = (slopes * shares[:, None, None, None] * self.widths).reshape(len(means), -1, means.shape[1])
        left = (self.gradient - np.tensordot(shares, moments, 1)).ravel()
        places = (means - self.usual) / self.widths
        aim = left + np.einsum("cmn,cn->m", scaled, places)
        own = 1 + 1 / np.maximum(counts, 1)  # variance of a class's mean: the class's, and of its rows
        common = scaled.sum(axis=0)
        wide = (scaled * np.sqrt(own)[:, None, None]).swapaxes(0, 1).reshape(len(aim), -1)
        system = wide @ wide.T + common @ common.T
        system[np.diag_indices_from(system)] += self.error**2 + 1e-9 * np.trace(system) / len(aim)
        pull = np.linalg.solve(system, aim)
        places = common.T @ pull + own[:, None] * np.einsum("cmn,m->cn", scaled, pull)
        return np.asarray(self.usual + self.widths * places)


def _narrowed(head: Head) -> _Narrow:
    """The head along the principal directions of what random inputs put in, as many as are affordable."""
    mean = head.drawn.mean(axis=0)
    _, strengths, axes = np.linalg.svd(head.drawn - mean, full_matrices=len(head.drawn) <= len(mean))
    count = min(len(mean), _MOST_EQUATIONS // len(head.gradient) - 1)
    axes = axes[:count]
    widths = np.zeros(len(axes))
    widths[: len(strengths)] = strengths[:count] / np.sqrt(len(head.drawn) - 1)
    widths = np.maximum(widths, _STILL * max(float(widths[0]), 1e-12))
    usual = axes @ mean
    aside = mean - usual @ axes
    weight = np.column_stack([head.weight[:, 0] + head.weight[:, 1:] @ aside, head.weight[:, 1:] @ axes.T])
    gradient = np.column_stack([head.gradient[:, 0], head.gradient[:, 1:] @ axes.T])
    within = (head.drawn[:_WITHIN] - head.drawn[:_WITHIN].mean(axis=0)) @ axes.T
    error = _UNEXPLAINED * float(np.abs(gradient).max())
    return _Narrow(gradient, weight, usual, widths, within, error)
