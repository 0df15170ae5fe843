"""Wrappers of Flower's `Grid`: what travels, counted, coded, streamed, under any strategy and runtime."""

from fedeff.grids.codec import CodecGrid
from fedeff.grids.cohort import Cohort, Fold, Folded, Receipt
from fedeff.grids.deadline import DeadlineGrid
from fedeff.grids.limited import LimitedGrid
from fedeff.grids.metered import MeteredGrid
from fedeff.grids.overlap import OverlapGrid
from fedeff.grids.partitions import PartitionGrid
from fedeff.grids.passing import PassingGrid
from fedeff.grids.prompt import Pace, PromptGrid, prompted
from fedeff.grids.tap import Listener, TapGrid, Taps

__all__ = [
    "CodecGrid",
    "Cohort",
    "DeadlineGrid",
    "Fold",
    "Folded",
    "LimitedGrid",
    "Listener",
    "MeteredGrid",
    "OverlapGrid",
    "Pace",
    "PartitionGrid",
    "PassingGrid",
    "PromptGrid",
    "Receipt",
    "TapGrid",
    "Taps",
    "prompted",
]
