"""How far estimates are from the truth, told and differentiated by Gram matrices alone."""

from typing import Any

import numpy as np

from fedeff.strategies.missing.labels import Labels

__all__ = ["gram_loss"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]

_FLOOR = 1e-3  # of a mean squared norm, added to each: the eps of a relative error
_TINY = 1e-30


def gram_loss(coefficients: NDArray, labels: Labels) -> tuple[float, NDArray]:
    """The loss of coefficients (clients, layers, basis), and its gradient by them.

    The mean over clients and layers of `||estimate - truth||^2 / (||truth||^2 + eps)`, and the mean over
    layers of the same for the clients' weighted sum: errors that cancel in the sum do no harm there. With
    `c = (a, -1)` and K the Gram matrix of basis and truth an error is `c' K c`, its gradient `2 K c`.
    """
    clients, layers, basis = coefficients.shape
    signed = np.concatenate([coefficients, -np.ones((clients, layers, 1))], axis=2)
    own = labels.blocks()
    pulls = np.einsum("clvw,clw->clv", own, signed)
    norms = own[:, :, -1, -1]
    norms = norms + _FLOOR * norms.mean(axis=0) + _TINY
    loss = float(np.mean(np.einsum("clv,clv->cl", signed, pulls) / norms))
    gradient = 2 * pulls[:, :, :basis] / norms[:, :, None] / (clients * layers)
    together, slope = _sum_loss(signed, labels)
    return loss + together, gradient + slope[:, :, :basis]


def _sum_loss(signed: NDArray, labels: Labels) -> tuple[float, NDArray]:
    """The relative error of the weighted sum, the mean over layers, and its gradient by `signed`."""
    clients, layers, size = signed.shape
    shares = (labels.weights / labels.weights.sum())[:, None, None]
    stacked = (shares * signed).transpose(1, 0, 2).reshape(layers, clients * size)
    pulls = np.einsum("lvw,lw->lv", labels.gram, stacked)
    truth = np.zeros((layers, clients, size))
    truth[:, :, -1] = shares[:, 0, 0]
    truth = truth.reshape(layers, clients * size)
    norms = np.einsum("lv,lvw,lw->l", truth, labels.gram, truth)
    own = np.einsum("lvv->lv", labels.gram)[:, size - 1 :: size]
    norms = norms + _FLOOR * own.mean(axis=1) + _TINY
    loss = float(np.mean(np.einsum("lv,lv->l", stacked, pulls) / norms))
    slope = 2 * pulls / norms[:, None] / layers
    return loss, shares * slope.reshape(layers, clients, size).transpose(1, 0, 2)
