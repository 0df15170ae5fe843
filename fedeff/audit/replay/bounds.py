"""What no attacker can beat: lower bounds on the squared error of inputs rebuilt under Gaussian noise."""

import numpy as np
import torch

from fedeff.audit.replay.jacobian import jacobian
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import NDArray, ServerView
from fedeff.core.errors import ConfigError
from fedeff.models.threads import one_thread

__all__ = ["cramer_rao", "information", "psnr_of", "van_trees"]


def information(view: ServerView, inputs: NDArray, labels: NDArray) -> NDArray:
    """`J'J` (d, d) of the known values by the d entries of the inputs, at these inputs and labels.

    Divided by sigma squared it is the Fisher information about the inputs where Gaussian noise of
    that standard deviation is on every value and the labels are known. For an auditor, who has the inputs.
    """
    with one_thread():
        x, y = torch.from_numpy(np.asarray(inputs, np.float64)), torch.from_numpy(labels)
        columns = jacobian(Matching(view, scale="none"), x, y)
        return np.asarray(columns @ columns.T)


def cramer_rao(gram: NDArray, sigma: float) -> float:
    """The least mean squared error per entry of an unbiased attacker: `sigma^2 tr((J'J)^-1) / d`.

    Infinite where some direction is not told at all. An attacker with a prior is biased and may
    do better: see `van_trees`. Cramer (1946), Rao (1945); for gradients see audit texts on Fisher leakage.
    """
    _check(gram, sigma)
    values = np.linalg.eigvalsh(gram)
    if values[0] <= np.finfo(float).eps * len(values) * values[-1]:
        return float("inf")
    return float(sigma**2 * np.mean(1 / values))


def van_trees(gram: NDArray, sigma: float, prior_variance: float) -> float:
    """The least mean squared error per entry of any attacker: `tr((J'J / sigma^2 + I / v)^-1) / d`.

    For inputs that are Gaussian with variance v and independent entries beforehand, and `J'J` the mean
    over such inputs; at one input, or for other inputs, it is an approximation (van Trees, "Detection,
    Estimation, and Modulation Theory", 1968, section 2.4). Never above the prior's variance.
    """
    _check(gram, sigma)
    if not prior_variance > 0:
        raise ConfigError(f"prior variance is {prior_variance}; it must be above 0")
    if sigma == 0:
        return 0.0 if cramer_rao(gram, 1.0) < np.inf else float(np.mean(_left(gram)) * prior_variance)
    values = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    return float(np.mean(1 / (values / sigma**2 + 1 / prior_variance)))


def _left(gram: NDArray) -> NDArray:
    """Which directions are not told at all."""
    values = np.linalg.eigvalsh(gram)
    return np.asarray(values <= np.finfo(float).eps * len(values) * values[-1])


def psnr_of(mean_squared_error: float, span: float = 1.0) -> float:
    """Decibels for inputs whose values span so much: infinite for no error, minus infinite for any."""
    if mean_squared_error <= 0:
        return float("inf")
    return (
        float(10 * np.log10(span**2 / mean_squared_error)) if mean_squared_error < np.inf else -float("inf")
    )


def _check(gram: NDArray, sigma: float) -> None:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ConfigError(
            f"J'J has shape {gram.shape}; it must be square, an entry for two of the inputs' entries"
        )
    if not sigma >= 0:
        raise ConfigError(f"sigma is {sigma}; a standard deviation must be at least 0")
