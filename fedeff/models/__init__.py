"""Small torch models, each a name with its parameter count and input shape; and smaller ones made of them."""

from fedeff.models.cards import ModelCard, build, describe, model_names
from fedeff.models.cropping import Window
from fedeff.models.decomposition import average_rank_ratio, convolutions, rank_of, saving_ranks
from fedeff.models.shrinking import apply, shrink, units_of, what_can_go
from fedeff.models.structure import Structure
from fedeff.models.units import Bypassable, Shrinkable, Slice, Units, shrinkable

__all__ = [
    "Bypassable",
    "ModelCard",
    "Shrinkable",
    "Slice",
    "Structure",
    "Units",
    "Window",
    "apply",
    "average_rank_ratio",
    "build",
    "convolutions",
    "describe",
    "model_names",
    "rank_of",
    "saving_ranks",
    "shrink",
    "shrinkable",
    "units_of",
    "what_can_go",
]
