"""The built-in app's local privacy: from settings to the client's mod, DP-SGD, and the noise on record."""

import math
from typing import cast

from fedeff.app.settings import Settings
from fedeff.clients.clipped_noise import ClippedNoise, Noise
from fedeff.clients.dp_sgd import DpSgd
from fedeff.clients.local_privacy import LocalPrivacy
from fedeff.clients.training import LocalTraining

__all__ = ["dp_sgd_of", "local_privacy_of", "mechanism_of", "noise_std_of"]


def mechanism_of(settings: Settings) -> ClippedNoise:
    """The clipping and the noise that the settings ask of clients; both 0 where they ask for none."""
    return ClippedNoise(
        settings.local_clipping_norm,
        settings.local_noise_multiplier,
        cast(Noise, settings.local_noise),
    )


def local_privacy_of(settings: Settings) -> LocalPrivacy | None:
    """The mod of a client, None where nothing is clipped and there is no noise.

    Under DP-SGD's noise alone it leaves out what clients measure of their data.
    """
    mechanism = mechanism_of(settings)
    quiet = bool(settings.local_noise_multiplier or settings.dp_sgd_noise_multiplier)
    if not (quiet or mechanism.clipping_norm):
        return None
    return LocalPrivacy(mechanism, quiet, settings.seed if settings.privacy_noise == "seeded" else None)


def dp_sgd_of(settings: Settings) -> DpSgd | None:
    """The clipping and the noise of each step; None where the settings ask for none."""
    if not settings.dp_sgd_clipping_norm:
        return None
    return DpSgd(
        settings.dp_sgd_clipping_norm,
        settings.dp_sgd_noise_multiplier,
        seeded=settings.privacy_noise == "seeded",
    )


def noise_std_of(settings: Settings, training: LocalTraining | None = None, examples: int = 0) -> float:
    """The standard deviation of the noise on each value of the change that one client tells.

    That of the client's mod is exact. With the `training` of a message and the client's number of
    `examples` the noise of DP-SGD is added to it, to first order: what the noise of one step does to
    the gradients of later ones is left out, so it is exact for one step; for optimizers other than sgd
    and momentum there is no such number, and it is left out. Central noise (`noise-multiplier`) is not
    counted: the server sees changes before it.
    """
    told = mechanism_of(settings).std
    if training is None or training.dp_sgd is None or training.optimizer not in ("sgd", "momentum"):
        return told
    return math.hypot(told, _dp_sgd_std(training, training.dp_sgd, examples))


def _dp_sgd_std(training: LocalTraining, dp_sgd: DpSgd, examples: int) -> float:
    """Root of the sum over steps of the square of each step's noise in the weights at the end."""
    sizes, steps = _batch_sizes(training, examples), training.step_count(examples)
    carried, squares = 0.0, 0.0
    for left in range(steps):  # steps that follow
        carried = training.momentum * carried + 1.0
        squares += (
            carried * training.learning_rate * dp_sgd.std / sizes[(steps - 1 - left) % len(sizes)]
        ) ** 2
    return math.sqrt(squares)


def _batch_sizes(training: LocalTraining, examples: int) -> list[int]:
    """Rows in each batch of a pass over the data."""
    size = training.batch_size
    return [min(size, examples - begin) for begin in range(0, examples, size)] or [size]
