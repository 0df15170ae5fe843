"""How near a rebuilt row is to the true one: images, tokens, labels. Pure functions on arrays."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import correlate1d
from scipy.optimize import linear_sum_assignment

from fedeff.core.errors import AuditError

__all__ = [
    "HIGHEST_PSNR_DB",
    "label_counts_f1",
    "matched",
    "psnr_db",
    "psnr_table",
    "rouge_l",
    "rouge_n",
    "ssim",
    "token_table",
]

NDArray = np.ndarray[Any, np.dtype[Any]]

# Float64 tells images in [0, 1] apart down to about 310 dB; equal ones would have no finite PSNR.
HIGHEST_PSNR_DB = 400.0
_WINDOW, _WINDOW_STD = 11, 1.5  # of SSIM, pixels
_K1, _K2 = 0.01, 0.03


def psnr_db(one: NDArray, other: NDArray, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio of two images of any one shape, in dB; 400 where they are equal.

    `peak` is the width of the range of values.
    """
    return float(psnr_table(one[None], other[None], peak)[0, 0])


def psnr_table(rebuilt: NDArray, truth: NDArray, peak: float = 1.0) -> NDArray:
    """PSNR of each rebuilt row (n, ...) with each true one (m, ...), in dB, shape (n, m)."""
    if rebuilt.shape[1:] != truth.shape[1:]:
        raise AuditError(
            f"rows of shape {rebuilt.shape[1:]} beside {truth.shape[1:]}; an attack rebuilds whole inputs"
        )
    # A row at a time: the expanded square of a difference would lose half of float64's digits.
    pixels = tuple(range(1, truth.ndim))
    errors = [np.mean((truth.astype(float) - row) ** 2, axis=pixels) for row in rebuilt.astype(float)]
    error = np.stack(errors) if errors else np.empty((0, len(truth)))
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(10 * np.log10(peak**2 / error), HIGHEST_PSNR_DB))


def matched(table: NDArray) -> list[int | None]:
    """For each column (true row) the row of the table that is matched to it, None where rows are too few.

    The one-to-one matching with the largest sum (Kuhn 1955, by SciPy's `linear_sum_assignment`). It
    knows the truth: a metric, not something that an attacker has.
    """
    found: list[int | None] = [None] * table.shape[1]
    for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        found[int(column)] = int(row)
    return found


def ssim(one: NDArray, other: NDArray, peak: float = 1.0) -> float:
    """Structural similarity of two images (channels, height, width), the mean over channels; 1 if equal.

    Wang et al. 2004 (Image quality assessment, IEEE TIP 13(4), eq. 13): a Gaussian window of 11 x 11
    pixels with a deviation of 1.5, where it lies inside the image; of smaller images the largest odd
    window that fits. Of 8 x 8 pixels that is few windows: read it beside PSNR.
    """
    if one.shape != other.shape or one.ndim != 3:
        raise AuditError(f"SSIM of {one.shape} and {other.shape}; expected two (channels, height, width)")
    reach = (min(_WINDOW, *one.shape[1:]) - 1) // 2
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    x, y = one.astype(float), other.astype(float)
    mean_x, mean_y = _windowed(x, reach), _windowed(y, reach)
    var_x = _windowed(x * x, reach) - mean_x**2
    var_y = _windowed(y * y, reach) - mean_y**2
    both = _windowed(x * y, reach) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _windowed(x: NDArray, reach: int) -> NDArray:
    """Gaussian means over windows that lie inside (channels, height, width)."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _WINDOW_STD) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        x = correlate1d(x, weights, axis=axis)
    return x[:, reach : x.shape[1] - reach, reach : x.shape[2] - reach]


def token_table(rebuilt: NDArray, truth: NDArray) -> NDArray:
    """Exact tokens, place by place, of each rebuilt sequence with each true one, shape (n, m).

    Sequences of another length are compared as far as both go; a token below 0 is one left open.
    """
    places = min(rebuilt.shape[1], truth.shape[1])
    same = rebuilt[:, None, :places] == truth[None, :, :places]
    return np.asarray((same & (truth[None, :, :places] >= 0)).sum(axis=-1))


def rouge_n(rebuilt: Sequence[int], truth: Sequence[int], n: int) -> float:
    """ROUGE-N of two sequences: the F1 of their n-grams, counted (Lin 2004); 0 where one has none."""
    left, right = _grams(rebuilt, n), _grams(truth, n)
    return _f1((left & right).total(), left.total(), right.total())


def rouge_l(rebuilt: Sequence[int], truth: Sequence[int]) -> float:
    """ROUGE-L of two sequences: the F1 of their longest common subsequence (Lin 2004)."""
    longest = [0] * (len(truth) + 1)
    for token in rebuilt:
        before = 0
        for place, other in enumerate(truth, 1):
            kept = longest[place]
            longest[place] = before + 1 if token == other else max(kept, longest[place - 1])
            before = kept
    return _f1(longest[-1], len(rebuilt), len(truth))


def label_counts_f1(inferred: NDArray, truth: NDArray) -> float:
    """The F1 of two bags of labels, order aside: 1 where every label is told as often as it is there."""
    left, right = Counter(np.ravel(inferred).tolist()), Counter(np.ravel(truth).tolist())
    return _f1((left & right).total(), left.total(), right.total())


def _grams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _f1(common: int, left: int, right: int) -> float:
    return 2 * common / (left + right) if left and right else 0.0
