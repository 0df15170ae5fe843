"""The built-in app's differential privacy: from settings to the Grid that its rounds go through."""

import math
from collections.abc import Callable
from dataclasses import replace

from flwr.serverapp import Grid

from fedeff.app.settings import Settings
from fedeff.core.records import Exchange
from fedeff.secure.privacy import GaussianSum, Participation, PrivateGrid

__all__ = ["private_grid_of", "recorded_by"]

Record = Callable[[Exchange], None]


def private_grid_of(settings: Settings, grid: Grid) -> PrivateGrid | None:
    """The grid with clipping and noise around it as the settings ask for; None where they ask for none."""
    if not settings.noise_multiplier:
        return None
    return PrivateGrid(
        grid,
        GaussianSum(settings.clipping_norm, settings.noise_multiplier),
        Participation(settings.noise_multiplier, settings.privacy_delta),
        max_epsilon=settings.max_epsilon or math.inf,
        noise_seed=settings.seed if settings.privacy_noise == "seeded" else None,
    )


def recorded_by(settings: Settings, add: Record) -> Record:
    """How exchanges go on record: under privacy without what clients say of themselves."""
    if not settings.noise_multiplier:
        return add
    return lambda exchange: add(replace(exchange, metrics={}, worst_tenth={}))
