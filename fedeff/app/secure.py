"""The built-in app's secure aggregation: from settings to the Grid of the server and the mod of clients."""

from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid

from fedeff.app.settings import Settings
from fedeff.secure import SecureGrid, SecureMod, SecureOptions

__all__ = ["secure_grid_of", "secure_mods"]


def secure_grid_of(settings: Settings, grid: Grid) -> SecureGrid | None:
    """The grid with secure sums around it; None where the settings ask for none."""
    if settings.secure_aggregation == "none":
        return None
    options = SecureOptions(
        protocol=settings.secure_aggregation,
        dropout=settings.secure_dropout,
        privacy=settings.secure_privacy,
        neighbours=settings.secure_neighbours,
        clip=settings.secure_clip,
        fraction_bits=settings.secure_fraction_bits,
        most_examples=settings.secure_max_examples,
        codec=settings.codec,
        difference=settings.codec_difference,
        seed=settings.seed,
    )
    return SecureGrid(grid, options)


def secure_mods(settings: Settings) -> tuple[Mod, ...]:
    """The mods of a client: with secure aggregation one that lets nothing out unmasked."""
    if settings.secure_aggregation == "none":
        return ()
    return (SecureMod(protocols=(settings.secure_aggregation,)),)
