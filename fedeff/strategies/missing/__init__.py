"""Missing updates: what a server that closes its rounds early may use in place of those that are late.

One estimator a file, in pure arithmetic on vectors; `DeadlineAveraging` moves the data.
"""

from fedeff.strategies.missing.estimator import Drift, Estimator, FedVARP, Stale
from fedeff.strategies.missing.flat import Layers, Vector
from fedeff.strategies.missing.gram_decoder import GramDecoder
from fedeff.strategies.missing.history import History, Mean, Past, Situation
from fedeff.strategies.missing.ridge import Ridge
from fedeff.strategies.missing.table import ESTIMATORS

__all__ = [
    "ESTIMATORS",
    "Drift",
    "Estimator",
    "FedVARP",
    "GramDecoder",
    "History",
    "Layers",
    "Mean",
    "Past",
    "Ridge",
    "Situation",
    "Stale",
    "Vector",
]
