"""The ceiling of every estimator on the basis: it is told the truth. For benchmarks alone."""

import numpy as np

from fedeff.strategies.missing.basis import combined, grams
from fedeff.strategies.missing.flat import Vector
from fedeff.strategies.missing.history import Past, Situation

__all__ = ["span_oracle"]

_RANK = 1e-9  # singular values below this share of the largest count as 0


def span_oracle(situation: Situation, stale: Past, truth: Vector) -> Vector:
    """The point of the basis's span that is nearest to the true update, layer by layer.

    No server knows `truth` in the round: what this gives is a bound, never a result. It bounds each
    client's error; the error of a sum over clients, and the run that follows, may still do better.
    """
    vectors = situation.basis(stale)
    gram = grams([*vectors, truth], situation.layers)
    coefficients = [np.linalg.lstsq(one[:-1, :-1], one[:-1, -1], rcond=_RANK)[0] for one in gram]
    return combined(np.stack(coefficients), vectors, situation.layers)
