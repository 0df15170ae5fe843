"""Wrappers of Flower's `Grid`: what travels, counted, coded, streamed, under any strategy and runtime."""

from fedeff.grids.codec import CodecGrid
from fedeff.grids.cohort import Cohort, Fold, Folded, Receipt
from fedeff.grids.deadline import DeadlineGrid
from fedeff.grids.metered import MeteredGrid
from fedeff.grids.overlap import OverlapGrid
from fedeff.grids.passing import PassingGrid

__all__ = [
    "CodecGrid",
    "Cohort",
    "DeadlineGrid",
    "Fold",
    "Folded",
    "MeteredGrid",
    "OverlapGrid",
    "PassingGrid",
    "Receipt",
]
