"""Small torch models, each a name with its parameter count and input shape; and smaller ones made of them."""

from fedeff.models.adapters import LoRA
from fedeff.models.cards import ModelCard, build, describe, model_names
from fedeff.models.composed import merge
from fedeff.models.cropping import Window
from fedeff.models.decomposition import average_rank_ratio, convolutions, rank_of, saving_ranks
from fedeff.models.fed_para import FedPara
from fedeff.models.shrinking import apply, shrink, units_of, what_can_go
from fedeff.models.structure import Structure
from fedeff.models.units import Bypassable, Shrinkable, Slice, Units, shrinkable

__all__ = [
    "Bypassable",
    "FedPara",
    "LoRA",
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
    "merge",
    "model_names",
    "rank_of",
    "saving_ranks",
    "shrink",
    "shrinkable",
    "units_of",
    "what_can_go",
]
