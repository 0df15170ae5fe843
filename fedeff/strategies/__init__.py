"""Federated strategies for Flower: one method a file, its arithmetic in pure functions.

Each is a `flwr.serverapp.strategy.Strategy` and works in anyone's ServerApp; `build` makes one
from a name and run-config settings.
"""

from fedeff.strategies.batch_size import AdaptiveBatchSGD, BatchSchedule
from fedeff.strategies.cycles import CycleAvg
from fedeff.strategies.deadline_averaging import DeadlineAveraging
from fedeff.strategies.delayed import DelayedAvg
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.fedavg import FedAvg, FedAvgOptions
from fedeff.strategies.fedbuff import FedBuff
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.fedluar import FedLUAR
from fedeff.strategies.gradient_coding import GradientCoding
from fedeff.strategies.hierarchical import HierarchicalSGD, Topology
from fedeff.strategies.local_sgd import LocalSGD, Periodic, PostLocal, PostLocalSGD
from fedeff.strategies.partial import PartialAvg
from fedeff.strategies.spec import Setting, StrategySpec
from fedeff.strategies.table import build, strategy_names, strategy_spec
from fedeff.strategies.two_phase import TwoPhaseSchedule, TwoPhaseSGD
from fedeff.strategies.update_frequency import AdaptiveUpdateSGD
from fedeff.strategies.weighted_sum import Refusal, Total, WeightedSum

__all__ = [
    "AdaptiveBatchSGD",
    "AdaptiveUpdateSGD",
    "BatchSchedule",
    "CycleAvg",
    "DeadlineAveraging",
    "DelayedAvg",
    "DiLoCo",
    "FedAvg",
    "FedAvgOptions",
    "FedBuff",
    "FedLAMA",
    "FedLUAR",
    "GradientCoding",
    "HierarchicalSGD",
    "LocalSGD",
    "PartialAvg",
    "Periodic",
    "PostLocal",
    "PostLocalSGD",
    "Refusal",
    "Setting",
    "StrategySpec",
    "Topology",
    "Total",
    "TwoPhaseSGD",
    "TwoPhaseSchedule",
    "WeightedSum",
    "build",
    "strategy_names",
    "strategy_spec",
]
