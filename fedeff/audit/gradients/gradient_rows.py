"""What an exchange tells of the gradient of one weight, row by row: a multiple of the sum over its steps."""

import numpy as np

from fedeff.audit.gradients.span import Rows
from fedeff.audit.view import Exchange, NDArray

__all__ = ["gradient_sum", "known_rows", "obstacle_to_sums", "steps_of"]

_LINEAR = ("sgd", "momentum")
_FLOAT32 = 2.0**-25  # of a float32: the typical error of rounding it
_ARITHMETIC = 1e-7  # of an array's typical entry: how far sums in float32 err


def obstacle_to_sums(exchange: Exchange) -> str | None:
    """Why a change is no sum of gradients; None where it is."""
    training = exchange.training
    if exchange.kind == "gradient":
        return None
    if training.optimizer not in _LINEAR:
        return f"optimizer {training.optimizer!r} scales every entry by itself; use sgd or momentum"
    if training.penalty is not None:
        return "a penalty adds to the gradient what is not of the rows; train without one"
    return None


def steps_of(exchange: Exchange) -> int:
    """Optimiser steps of a client, at least 1; of a sum those of clients with equal shares."""
    if exchange.kind == "gradient":
        return 1
    return max(1, exchange.training.step_count(max(1, exchange.examples // exchange.clients)))


def gradient_sum(exchange: Exchange, key: str) -> NDArray:
    """The sum of a weight's gradients over the steps, each as often as momentum counts it, float64.

    Without weight decay, whose part is that of the weights before training; of several steps that is so
    up to what decay takes from the change itself.
    """
    values = exchange.told[key].values
    if exchange.kind == "gradient":
        return values
    training, steps = exchange.training, steps_of(exchange)
    total = values / -training.learning_rate
    if training.weight_decay:
        counted = sum((steps - late) * training.momentum**late for late in range(steps))
        total = total - training.weight_decay * counted * exchange.weights[key]
    return total


def known_rows(exchange: Exchange, key: str) -> Rows | None:
    """The rows of a weight's summed gradient of which every entry is known; None where there are none."""
    told = exchange.told.get(key)
    if told is None or told.values.ndim != 2 or key in exchange.stale:
        return None
    whole = np.flatnonzero(told.mask.all(axis=1))
    if not len(whole):
        return None
    values = gradient_sum(exchange, key)[whole]
    rate = 1.0 if exchange.kind == "gradient" else exchange.training.learning_rate
    variance = np.broadcast_to(np.square(told.std), told.values.shape)[whole].mean(axis=1) / rate**2
    variance = variance + np.square(_ARITHMETIC * values).mean()
    if exchange.kind == "change":
        weights = np.asarray(exchange.weights[key], np.float64)[whole]
        variance = variance + np.square(_FLOAT32 * weights / rate).mean(axis=1)
    return Rows(values, np.sqrt(variance)) if (variance > 0).all() else None
