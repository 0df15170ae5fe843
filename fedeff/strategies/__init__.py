"""Federated strategies for Flower: one method a file, its arithmetic in pure functions.

Each is a `flwr.serverapp.strategy.Strategy` and works in anyone's ServerApp; `build` makes one
from a name and run-config settings.
"""

from fedeff.strategies.fedavg import FedAvg
from fedeff.strategies.layerwise import LayerwiseAvg
from fedeff.strategies.table import Setting, StrategySpec, build, strategy_names, strategy_spec
from fedeff.strategies.weighted_sum import Refusal, Total, WeightedSum

__all__ = [
    "FedAvg",
    "LayerwiseAvg",
    "Refusal",
    "Setting",
    "StrategySpec",
    "Total",
    "WeightedSum",
    "build",
    "strategy_names",
    "strategy_spec",
]
