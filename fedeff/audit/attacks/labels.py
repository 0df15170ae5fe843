"""Labels from what the last layer betrays: no optimisation, milliseconds.

The gradient of the mean cross-entropy by the logits is `p_c - [y = c]`, averaged over the rows. The bias of
the last layer tells it as it is, the weight multiplied by what went into the layer.
"""

import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from fedeff.audit.finding import Budget, Finding
from fedeff.audit.gradients.last_layer import Head, obstacle_to_opening, opened
from fedeff.audit.gradients.likely_counts import likely_counts, tells_likely_counts
from fedeff.audit.gradients.rank_one import rank_one
from fedeff.audit.replay.matching import replayed_rows
from fedeff.audit.view import Exchange, Labels, NDArray, ServerView
from fedeff.core.errors import AuditError

__all__ = ["LabelInference", "infer_labels", "label_counts", "likely_labels"]

_REFINEMENTS = 8
_WELL_TOLD = 0.05  # of the largest singular value: directions below it are left as they are
_NOISY = 0.1  # of the largest: with more noise than that a bias's gradient tells less than the weights'


@dataclass(frozen=True)
class LabelInference:
    """Infers the labels of a batch as counts of each class, in ascending order.

    One row: the class whose logit the gradient raises (iDLG, Zhao et al., arXiv:2001.02610), exact
    from one step. Several rows: a linear system in the counts, with each class's probabilities from the
    mean input of the last layer that the ratio of weight gradient to bias gradient gives (iLRG, Ma et al.,
    "Instance-wise Batch Label Restoration via Gradients in Federated Learning", ICLR 2023); where one step's
    whole layer came exactly also the counts of the likeliest inputs of the layer that explain its
    gradient (`likely_counts`). Of the two the one that is nearer to whole numbers is taken. A class whose
    logit is raised has at least one row (LLG, Wainakh et al., arXiv:2105.09369). Through several local
    steps, masks and noise it is an approximation.
    Not for text, and not for models that do not end in a dense layer.
    """

    name: str = "labels"

    def obstacle(self, view: ServerView) -> str | None:
        """Why labels cannot be inferred, in one line; None where they can."""
        return _obstacle(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The labels; nothing is drawn, and it takes milliseconds whatever the budget."""
        began = time.monotonic()
        counts = label_counts(view)
        found = _labels(counts, _rows(view), _raised(view))
        off = float(np.abs(np.bincount(found, minlength=len(counts)) - counts).max())
        facts = {"largest rounding of a count": off}
        return Finding(self.name, None, found, float("nan"), True, time.monotonic() - began, facts)


def infer_labels(view: ServerView) -> Labels:
    """The labels of the view's rows, int64 (rows,) in ascending order, by `LabelInference`'s rules.

    Raises AuditError where they cannot be inferred.
    """
    return _labels(label_counts(view), _rows(view), _raised(view))


def likely_labels(view: ServerView) -> list[Labels]:
    """All labels that ways of inferring them come to, those of `infer_labels` first; each (rows,), ascending.

    Raises AuditError where they cannot be inferred.
    """
    _refuse(view)
    first = infer_labels(view)
    ways = [_counts(view.first, view)[-1]] if len(view.exchanges) == 1 else []
    others = [_labels(counts, _rows(view), _raised(view)) for counts in ways]
    return [first, *(one for one in others if not np.array_equal(one, first))]


def label_counts(view: ServerView) -> NDArray:
    """How many rows of each class, (classes,) float64 before rounding: the mean over the exchanges."""
    _refuse(view)
    return np.asarray(np.mean([_counts(exchange, view)[0] for exchange in view.exchanges], axis=0))


def _refuse(view: ServerView) -> None:
    if obstacle := _obstacle(view):
        raise AuditError(obstacle)


def _obstacle(view: ServerView) -> str | None:
    if view.public.task != "classify":
        return "labels of text are its tokens; use an attack on text"
    if not _rows(view):
        return "the client does not say how many rows it has"
    return obstacle_to_opening(view)


def _rows(view: ServerView) -> int:
    return replayed_rows(view.first, view)


def _labels(counts: NDArray, rows: int, raised: NDArray) -> Labels:
    """Whole numbers nearest the counts that sum to the rows, at least 1 of each raised class."""
    surest = np.argsort(-counts, kind="stable")
    whole = np.zeros(len(counts), np.int64)
    whole[[one for one in surest if raised[one]][:rows]] = 1
    while whole.sum() < rows:
        whole[int(np.argmax(counts - whole))] += 1
    return np.repeat(np.arange(len(counts)), whole)


def _raised(view: ServerView) -> NDArray:
    """Which classes' biases the client raised beyond doubt: a class without a row is only ever lowered."""
    sure = np.zeros(view.public.classes, bool)
    for exchange in view.exchanges:
        head = opened(exchange, view)
        bias, least = head.gradient[:, 0], 1e-6 * np.nanmax(np.abs(head.gradient), initial=0.0)
        sure |= np.nan_to_num(bias) < -max(least, 4 * head.bias_std)
    return sure


def _counts(exchange: Exchange, view: ServerView) -> list[NDArray]:
    """Counts of each class from one exchange by each way, not rounded; the nearest to whole ones first."""
    head, rows = opened(exchange, view), _rows(view)
    by_logits, inside = rank_one(head.gradient, head.usual, head.std)
    bias, error = head.gradient[:, 0], head.std / max(float(np.linalg.norm(inside)), 1e-12)
    if head.bias_std < _NOISY * np.nanmax(np.abs(bias), initial=0.0):
        by_logits, error = np.where(np.isfinite(bias), bias, by_logits), head.bias_std
    if rows == 1:
        return [np.asarray(np.arange(len(bias)) == np.argmin(by_logits), np.float64)]
    found = [_solved(head, by_logits, inside, rows, error)]
    if exchange.steps == 1 and tells_likely_counts(head):
        found.append(likely_counts(head, rows))
    return sorted(found, key=lambda counts: float(np.abs(counts - np.round(counts)).max()))


def _solved(head: Head, by_logits: NDArray, inside: NDArray, rows: int, error: float) -> NDArray:
    """Counts k >= 0 with sum `rows` for which `k @ P - k` is nearest to rows times the logits' gradient.

    P are the probabilities that the mean input of each class's rows gives. These inputs are first what the
    class's row of the gradient shows where the class is raised, as there its own rows outweigh the others,
    then what together with the counts explains the whole gradient of the layer better. The counts that
    explain it best are the answer. Noise, `error` in the logits' gradient, keeps the inputs near the mean one
    and the counts near equal ones, by as much as it outweighs what came.
    """
    typical = np.tile(inside, (len(by_logits), 1))
    own = by_logits < 0
    held = head.std**2 / max(float(np.mean(inside**2)), 1e-300)
    ratio = (head.gradient[own] * by_logits[own, None] + held * inside) / (by_logits[own, None] ** 2 + held)
    typical[own] = np.where(np.isfinite(ratio), ratio, inside)
    known, best, least = np.isfinite(head.gradient), np.zeros(len(by_logits)), np.inf
    for _ in range(_REFINEMENTS):
        probabilities = head.probabilities(typical)
        counts = _fitted(probabilities, by_logits, rows, head.shortened, error)
        errors = (probabilities - np.eye(len(counts))).T * counts / rows
        left = np.where(known, head.gradient - errors @ typical, 0.0)
        if np.linalg.norm(left) < least:
            best, least = counts, float(np.linalg.norm(left))
        well_told = max(_WELL_TOLD, np.sqrt(held) / max(np.linalg.norm(errors, 2), 1e-300))
        typical[:, 1:] += (np.linalg.pinv(errors, rcond=well_told) @ left)[:, 1:]
    return np.asarray(best * rows / max(best.sum(), 1e-12)) if head.shortened else best


def _fitted(probabilities: NDArray, by_logits: NDArray, rows: int, shortened: bool, error: float) -> NDArray:
    """The counts of least squares; beforehand they are as of labels that are drawn evenly."""
    system, logits = probabilities.T - np.eye(len(by_logits)), rows * by_logits
    if error:
        equal = rows / len(by_logits)  # also their variance
        held = rows * error / np.sqrt(equal)
        system = np.vstack([system, held * np.eye(len(by_logits))])
        logits = np.append(logits, np.full(len(by_logits), held * equal))
    if not shortened:
        # Of a shortened gradient only ratios are right: there classes without a row pin the counts down.
        system = np.vstack([system, np.ones(system.shape[1])])
        logits = np.append(logits, float(rows))
    return np.asarray(nnls(system, logits)[0])
