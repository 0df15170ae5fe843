"""Estimators by name: what `DeadlineAveraging(missing=...)` may be told."""

from collections.abc import Callable

from fedeff.strategies.missing.estimator import Drift, Estimator, FedVARP, Stale
from fedeff.strategies.missing.gram_decoder import GramDecoder
from fedeff.strategies.missing.ridge import Ridge

__all__ = ["ESTIMATORS"]

# Made for a seed; None estimates nobody.
ESTIMATORS: dict[str, Callable[[int], Estimator | None]] = {
    "drop": lambda seed: None,
    "stale": lambda seed: Stale(),
    "fedvarp": lambda seed: FedVARP(),
    "drift": lambda seed: Drift(),
    "ridge": lambda seed: Ridge(seed=seed),
    "gram": lambda seed: GramDecoder(seed=seed),
}
