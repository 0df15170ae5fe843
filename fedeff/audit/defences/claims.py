"""Whether what clients send really carries the noise, the clipping and the masks that the settings say.

A defence that is wired wrongly, such as noise that is added after the server has seen the update, looks
like any other in the settings. Here it is measured: the same round is run with and without its noise, and
what differs in the views has to be that noise. A client's batches follow from the seed, so nothing else does.
"""

import math
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from fedeff.app.client import client_app_of
from fedeff.app.local_privacy import dp_sgd_of, mechanism_of, noise_std_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.audit.capturing.capture import capture
from fedeff.audit.defences.wiring import Wiring, clipping_wiring, masking_wiring, noise_wiring
from fedeff.audit.view import Exchange, NDArray
from fedeff.clients.clipped_noise import ClippedNoise
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.field import Elements
from fedeff.grids import Taps
from fedeff.models.threads import one_thread
from fedeff.secure import SecureGrid
from fedeff.simulation import run_simulation

__all__ = ["Wiring", "check_wiring", "require_wiring", "without_noise"]

_FLOAT32 = 2.0**-24  # relative rounding of weights on the wire
_SUMMED = 10  # clients of a sum that is looked at, however large the cohort
# Strategies of which a round of a single client is a round like any other.
_ALONE = ("fedavg", "fedprox", "fedlama", "fedluar", "partial", "diloco", "post-local")


def require_wiring(settings: Settings, clients: int) -> tuple[Wiring, ...]:
    """What `check_wiring` found, where all of it holds.

    Raises:
        AuditError: that says what a view does not carry.
    """
    found = check_wiring(settings, clients)
    broken = [one.sentence for one in found if not one.holds]
    if broken:
        raise AuditError("; ".join(broken))
    return found


def check_wiring(settings: Settings, clients: int) -> tuple[Wiring, ...]:
    """Each claim of the settings, measured in the first round of a run of so many clients.

    Local noise, clipping and DP-SGD are measured each alone and without codec or secure sum, where the
    numbers are exact; then all as configured, where the view has to carry at least half of the noise (under
    codecs that round: any). Under secure aggregation masked vectors have to be uniform. Central noise is
    added after the server has seen the updates, so of it no view of the server's carries anything. One client
    is looked at, or a sum of a few: all are wired alike.

    Raises:
        AuditError: where no view can be captured.
    """
    found: list[Wiring] = []
    plain = _plain(settings)
    if settings.local_noise_multiplier or settings.local_clipping_norm:
        found += _local_wirings(replace(plain, dp_sgd_noise_multiplier=0.0), clients)
    if settings.dp_sgd_clipping_norm:
        found += _dp_sgd_wirings(_without_local(plain), clients)
    if settings.local_noise_multiplier or settings.dp_sgd_noise_multiplier:
        found.append(_configured_wiring(settings, clients))
    if settings.secure_aggregation != "none":
        found.append(masking_wiring(_masked_vectors(settings, clients)))
    return tuple(found)


def without_noise(settings: Settings) -> Settings:
    """The settings with clipping as it is and no noise of clients."""
    return replace(settings, local_noise_multiplier=0.0, dp_sgd_noise_multiplier=0.0)


def _plain(settings: Settings) -> Settings:
    """The settings with nothing between the client's own defences and the server."""
    return replace(
        settings,
        codec="",
        codec_shared_scale=False,
        down_codec="",
        down_difference=False,
        secure_aggregation="none",
        noise_multiplier=0.0,
    )


def _without_local(settings: Settings) -> Settings:
    """The settings with changes told as they are."""
    return replace(settings, local_noise_multiplier=0.0, local_clipping_norm=0.0)


def _local_wirings(settings: Settings, clients: int) -> list[Wiring]:
    mechanism, found = mechanism_of(settings), []
    clean = _first(without_noise(settings), clients)
    if mechanism.clipping_norm:
        kind = "L1" if mechanism.noise == "laplace" else "L2"
        norm = mechanism.norm(_known(clean))
        rounding = _rounding(clean) * _norm_of_ones(mechanism, clean)
        found.append(clipping_wiring(f"clipping ({kind})", norm, mechanism.clipping_norm, rounding))
    if mechanism.noise_multiplier:
        told, pair = _pair(_first(settings, clients), clean)
        found.append(
            noise_wiring(
                f"local {mechanism.noise} noise",
                *(told, pair, mechanism.std),
                kurtosis=6.0 if mechanism.noise == "laplace" else 3.0,
                rounding=_rounding(clean),
            )
        )
    return found


def _dp_sgd_wirings(settings: Settings, clients: int) -> list[Wiring]:
    clean, found = _first(without_noise(settings), clients), []
    training, plain_sgd = clean.training, clean.training.optimizer == "sgd"
    if plain_sgd and not (training.weight_decay or training.prox_mu or clean.stale):
        bound = training.learning_rate * clean.steps * settings.dp_sgd_clipping_norm
        norm = ClippedNoise().norm(_known(clean))
        rounding = _rounding(clean) * _norm_of_ones(ClippedNoise(), clean)
        found.append(clipping_wiring("DP-SGD clipping", norm, bound, rounding))
    if settings.dp_sgd_noise_multiplier:
        noisy = _first(settings, clients)
        # The noise of the settings, not of what training was told.
        said = replace(noisy.training, dp_sgd=dp_sgd_of(settings))
        std, exact = noise_std_of(settings, said, noisy.examples), noisy.steps == 1
        found.append(
            noise_wiring("DP-SGD noise", *_pair(noisy, clean), std, exact=exact, rounding=_rounding(clean))
        )
    return found


def _configured_wiring(settings: Settings, clients: int) -> Wiring:
    """The settings as they are beside the same without noise: a coarse look at all of it together."""
    clean, noisy = _first(without_noise(settings), clients), _first(settings, clients)
    told, pair = _pair(noisy, clean)
    # Codecs that round or choose may hide less or more; a sum's noise is at least this share of one client's.
    std = 0.0 if settings.codec or settings.dp_sgd_clipping_norm else noise_std_of(settings)
    return noise_wiring("noise as configured", told, pair, std / math.sqrt(noisy.clients), exact=False)


def _first(settings: Settings, clients: int) -> Exchange:
    """The first exchange of the first client, or of the sum."""
    exchange = capture(_smaller(settings), clients, victims=[0])[0].view.first
    if settings.secure_aggregation != "none" and exchange.clients < 2:
        raise AuditError("masking: the settings say secure aggregation, but a single client's update is seen")
    return exchange


def _smaller(settings: Settings) -> Settings:
    """The settings with rounds of few clients, where that is no other kind of round."""
    if settings.secure_aggregation != "none":
        return replace(settings, cohort=min(settings.cohort, _SUMMED))
    return replace(settings, cohort=1) if settings.strategy in _ALONE else settings


def _known(exchange: Exchange) -> dict[str, NDArray]:
    """What was told of arrays of floats, flat, where it is known."""
    return {
        key: one.values[one.mask]
        for key, one in exchange.told.items()
        if exchange.weights[key].dtype.kind == "f"
    }


def _pair(noisy: Exchange, clean: Exchange) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """What both told of the same values, flat by key.

    Raises:
        AuditError: where training did not begin alike.
    """
    floats = [key for key in noisy.told if key in clean.told and noisy.weights[key].dtype.kind == "f"]
    if not all(np.array_equal(noisy.weights[key], clean.weights[key]) for key in floats):
        raise AuditError("the views with and without noise begin with other weights; capture the first round")
    masks = {key: noisy.told[key].mask & clean.told[key].mask for key in floats}
    return (
        {key: noisy.told[key].values[masks[key]] for key in floats},
        {key: clean.told[key].values[masks[key]] for key in floats},
    )


def _rounding(exchange: Exchange) -> float:
    """How far rounding of weights to the wire's float32 moves a value, at most."""
    largest = max(float(np.abs(values).max(initial=0.0)) for values in exchange.weights.values())
    return _FLOAT32 * max(largest, 1e-30)


def _norm_of_ones(mechanism: ClippedNoise, exchange: Exchange) -> float:
    return mechanism.norm({key: np.ones(values.shape) for key, values in _known(exchange).items()})


def _masked_vectors(settings: Settings, clients: int) -> list[Elements]:
    """What the server opens of each client in the first secure sum."""
    vectors: list[Elements] = []

    def listening(grid: Grid) -> Grid:
        if not isinstance(grid, SecureGrid):
            raise AuditError("masking: the settings say secure aggregation, but the server sums in the clear")
        grid.on_input = vectors.append
        return grid

    told = replace(_smaller(settings), num_server_rounds=1, coded_eval="", run_folder="")
    with one_thread():
        run_simulation(
            server_app(on_round=lambda record: None, taps=Taps(released=listening)),
            client_app_of(told),
            clients,
            run_config=told.run_config(),
            engine="inline",
        )
    if not vectors:
        raise ConfigError("no client took part in the secure sum; look why the run fails")
    return vectors
