"""Learned codes: networks that encode inputs and decode answers of a function, trained for it."""

from fedeff.codes.learned.fit import fit
from fedeff.codes.learned.frozen import frozen, function_digest
from fedeff.codes.learned.measured import Measured, measured
from fedeff.codes.learned.quality import PatternQuality
from fedeff.codes.learned.recipes import LearnedCode, PackedCode, ParityModel, Recipe, ResidualCode
from fedeff.codes.learned.saving import load, save
from fedeff.codes.learned.trained import FitRecord, TrainedCode
from fedeff.codes.learned.training import Progress

__all__ = [
    "FitRecord",
    "LearnedCode",
    "Measured",
    "PackedCode",
    "ParityModel",
    "PatternQuality",
    "Progress",
    "Recipe",
    "ResidualCode",
    "TrainedCode",
    "fit",
    "frozen",
    "function_digest",
    "load",
    "measured",
    "save",
]
