"""The epsilon that is true of a configuration: of which noise, for whom, against whom; or none at all."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from scipy.optimize import brentq

from fedeff.app.local_privacy import mechanism_of
from fedeff.app.settings import Settings, Value
from fedeff.clients.clipped_noise import ClippedNoise
from fedeff.core.errors import ConfigError, PrivacyError
from fedeff.core.flower import mods_of
from fedeff.secure.privacy import epsilon_of

__all__ = [
    "EpsilonCheck",
    "GaussianMod",
    "Guarantee",
    "check_app",
    "check_claim",
    "check_local_dp_mod",
    "effective_epsilon",
    "guarantees_of",
    "multiplier_for",
    "true_epsilon",
]

Unit = Literal["client", "row"]
Against = Literal["server", "released"]

_SLACK = 1e-6  # relative: two ways to compute one epsilon differ by rounding


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy of one mechanism over a whole run.

    `unit`: what may be another without anybody being able to tell: all rows of one "client", or one
    "row". `against` "server": it holds against whoever sees what the client sent; "released": only against
    those who see no more than the models. `releases` is how often one unit's data took part at most.
    """

    mechanism: str
    unit: Unit
    against: Against
    epsilon: float
    delta: float
    releases: int

    def __str__(self) -> str:
        """`local gaussian noise: epsilon = 4.2 at delta 1e-05 for a client, against the server`."""
        whom = "the server" if self.against == "server" else "readers of the models, not the server"
        return (
            f"{self.mechanism}: epsilon = {self.epsilon:.3g} at delta {self.delta:g} for a {self.unit}, "
            f"against {whom}"
        )


def guarantees_of(settings: Settings, *, rows: int = 0, releases: int = 0) -> tuple[Guarantee, ...]:
    """What the settings guarantee over their rounds, by mechanism; nothing where there is none.

    `rows` is the fewest that a client has (0: not known), `releases` how often the client that was asked
    most often replied (0: as often as the settings allow). Both only make the numbers smaller.

    - Local noise, with clipping: any two changes are at most twice the clipping norm apart, so the noise
      counts half. Gaussian noise by Renyi accounting, Laplace noise by that or by adding up, whichever
      is less. Codecs, secure sums and all that the server does come after, so they reveal nothing more.
    - DP-SGD: one row replaced by another moves a batch's sum by twice the norm at most, once in each pass
      over the data. Batches are fixed in size and drawn from a seed on record, so nothing is taken off for
      sampling (that takes batches which nobody knows, Poisson's for the usual accountants).
    - Central noise: a client, there or not, moves the sum by the norm at most; the server sees changes
      before, so this is against readers of its models alone.

    Of the data's values alone: numbers of examples and steps are told in the clear. With
    `privacy-noise=seeded` there is no guarantee: the seed is on record.

    Raises:
        PrivacyError: if dp-accounting is not installed.
    """
    replies = releases or _replies(settings)
    found: list[Guarantee] = []
    if settings.privacy_noise == "seeded":
        return ()
    mechanism = mechanism_of(settings)
    if mechanism.clipping_norm and mechanism.noise_multiplier:
        epsilon = _local_epsilon(mechanism, replies, settings.privacy_delta)
        name = f"local {mechanism.noise} noise"
        found.append(Guarantee(name, "client", "server", epsilon, settings.privacy_delta, replies))
    if settings.dp_sgd_noise_multiplier:
        seen = replies * _passes(settings, rows)
        epsilon = epsilon_of(settings.dp_sgd_noise_multiplier / 2, seen, settings.privacy_delta)
        found.append(Guarantee("DP-SGD", "row", "server", epsilon, settings.privacy_delta, seen))
    if settings.noise_multiplier:
        epsilon = epsilon_of(settings.noise_multiplier, replies, settings.privacy_delta)
        found.append(
            Guarantee("central noise", "client", "released", epsilon, settings.privacy_delta, replies)
        )
    return tuple(found)


def true_epsilon(
    settings: Settings, *, against: Against = "server", rows: int = 0, releases: int = 0
) -> float | None:
    """The least epsilon of a row's data against the server, or whoever sees the models; None: none.

    What holds for a client holds for each of its rows, and what holds against the server holds against
    those who see less.
    """
    held = [
        one.epsilon
        for one in guarantees_of(settings, rows=rows, releases=releases)
        if one.against in ("server", against)
    ]
    return min(held, default=None)


def multiplier_for(epsilon: float, settings: Settings) -> float:
    """The `local-noise-multiplier` of Gaussian noise for which a run of these settings has this epsilon.

    Raises:
        ConfigError: for an epsilon that is not positive, or too large to calibrate noise to.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon is {epsilon}, expected a positive number")
    replies, delta = _replies(settings), settings.privacy_delta

    def excess(logarithm: float) -> float:
        return math.log(epsilon_of(math.exp(logarithm) / 2, replies, delta) or 1e-300) - math.log(epsilon)

    low, high = math.log(1e-2), math.log(1e6)
    if excess(low) < 0:
        return math.exp(low)
    if excess(high) > 0:
        raise ConfigError(f"epsilon = {epsilon:g} over {replies} replies takes more noise than is of use")
    # The upper end of a tight bracket, so that the epsilon is at most what was asked for.
    return float(math.exp(brentq(excess, low, high, xtol=1e-9) + 2e-9))


class GaussianMod(Protocol):
    """What Flower's `LocalDpMod` holds (flwr 1.41)."""

    clipping_norm: float
    sensitivity: float
    epsilon: float
    delta: float


@dataclass(frozen=True)
class EpsilonCheck:
    """A claimed epsilon beside the true one (None: no guarantee), and a sentence that says what is wrong."""

    claimed: float
    actual: float | None
    delta: float
    releases: int
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether the claim is no better than the truth."""
        return self.actual is not None and self.actual <= self.claimed * (1 + _SLACK)


def effective_epsilon(clipping_norm: float, std: float, delta: float, releases: int = 1) -> float:
    """The exact epsilon of so many replies, each clipped to an L2 norm and with Gaussian noise of `std`.

    For any two changes of a client, which are up to twice the norm apart. The analytical Gaussian
    mechanism (Balle & Wang, arXiv:1805.06530, theorem 8); so many releases are one of noise smaller by the
    root of their number.

    Raises:
        PrivacyError: if dp-accounting is not installed.
    """
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError as error:
        raise PrivacyError(
            "privacy is accounted for by dp-accounting, which is not installed; pip install 'fedeff[dp]'"
        ) from error
    if not clipping_norm > 0:
        return math.inf
    return float(get_epsilon_gaussian(std / (2 * clipping_norm * math.sqrt(releases)), delta))


def check_local_dp_mod(mod: GaussianMod, releases: int = 1) -> EpsilonCheck:
    """Flower's `LocalDpMod`: the epsilon it is told beside that of the noise it adds, after so many replies.

    It clips to `clipping_norm`, but its noise is `sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon`,
    whatever that norm is; and each reply spends its epsilon once more.

    >>> from flwr.clientapp.mod import LocalDpMod
    >>> check_local_dp_mod(LocalDpMod(5.0, 10.0, 1.0, 1e-5)).holds
    True
    """
    if not (0 < mod.delta < 1 and mod.epsilon > 0):
        raise ConfigError(
            f"LocalDpMod has epsilon = {mod.epsilon}, delta = {mod.delta}; expected epsilon above 0 and "
            "delta inside (0, 1), such as 1e-5"
        )
    std = mod.sensitivity * math.sqrt(2 * math.log(1.25 / mod.delta)) / mod.epsilon
    actual = effective_epsilon(mod.clipping_norm, std, mod.delta, releases)
    replies = "one reply" if releases == 1 else f"{releases} replies"
    found = EpsilonCheck(mod.epsilon, actual if math.isfinite(actual) else None, mod.delta, releases, "")
    if found.holds:
        return replace(found, sentence=f"epsilon = {mod.epsilon:g} holds for {replies}")
    really = "nothing" if found.actual is None else f"epsilon = {actual:.3g}"
    apart = 2 * mod.clipping_norm
    short = mod.sensitivity < apart
    why = f"are up to {apart:g} apart, not {mod.sensitivity:g}" if short else "are told in each round anew"
    remedy = (
        f"set sensitivity to {apart:g}, twice clipping_norm" if short else "share epsilon among the rounds"
    )
    return replace(
        found,
        sentence=(
            f"LocalDpMod says epsilon = {mod.epsilon:g}, but updates clipped to {mod.clipping_norm:g} {why}: "
            f"its noise of {std:.3g} guarantees {really} at delta {mod.delta:g} for {replies}; {remedy}"
        ),
    )


def check_app(app: ClientApp, releases: int = 1) -> tuple[EpsilonCheck, ...]:
    """`check_local_dp_mod` of each `LocalDpMod` that an app has around all of its messages.

    Mods that are given to a single function, as in `@app.train(mods=[...])`, are not found.
    """
    return tuple(check_local_dp_mod(mod, releases) for mod in mods_of(app) if isinstance(mod, LocalDpMod))


def check_claim(
    claimed: float,
    settings: Settings,
    *,
    against: Against = "server",
    rows: int = 0,
    releases: int = 0,
) -> EpsilonCheck:
    """An epsilon that somebody states of the settings beside the one that is true of them."""
    actual = true_epsilon(settings, against=against, rows=rows, releases=releases)
    replies = releases or _replies(settings)
    found = EpsilonCheck(claimed, actual, settings.privacy_delta, replies, "")
    if found.holds:
        return replace(found, sentence=f"epsilon = {claimed:g} holds: it is {actual:.3g} at most")
    really = "guarantee none" if actual is None else f"come to epsilon = {actual:.3g}"
    return replace(
        found,
        sentence=(
            f"epsilon = {claimed:g} is claimed, but the settings {really} at delta "
            f"{settings.privacy_delta:g} over {replies} replies of a client; correct the claim, or the noise"
        ),
    )


def _local_epsilon(mechanism: ClippedNoise, replies: int, delta: float) -> float:
    """Epsilon of noise against changes that are twice the clipping norm apart."""
    if mechanism.noise == "gaussian":
        return epsilon_of(mechanism.noise_multiplier / 2, replies, delta)
    added = replies * mechanism.sensitivity / mechanism.scale  # pure: delta would be 0
    return min(added, _laplace_epsilon(mechanism.noise_multiplier / 2, replies, delta))


def _laplace_epsilon(multiplier: float, replies: int, delta: float) -> float:
    """Renyi accounting of Laplace noise of so many times the sensitivity (Mironov, arXiv:1702.07476)."""
    try:
        from dp_accounting import LaplaceDpEvent
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise PrivacyError(
            "privacy is accounted for by dp-accounting, which is not installed; pip install 'fedeff[dp]'"
        ) from error
    accountant = RdpAccountant()
    accountant.compose(LaplaceDpEvent(multiplier), replies)
    return float(accountant.get_epsilon(delta))


def _replies(settings: Settings) -> int:
    """The most that one client replies in a run: once a round, with fedbuff for each update in a buffer."""
    if settings.strategy == "fedbuff":
        return settings.num_server_rounds * int(_own(settings, "buffer")) + 1
    return settings.num_server_rounds


def _passes(settings: Settings, rows: int) -> int:
    """In how many batches of a round one row is at most: in one of each pass over the data."""
    steps, batch = settings.local_steps, settings.batch_size
    if settings.strategy == "post-local":
        steps = max(1, int(_own(settings, "later-steps")))
    if settings.strategy == "adaptive-batch":
        batch = max(batch, int(_own(settings, "largest-batch-size")))
    if not steps:
        return settings.local_epochs
    return math.ceil(steps / math.ceil(rows / batch)) if rows else steps


def _own(settings: Settings, key: str) -> Value:
    """A setting of the strategy, at its default where it was not given."""
    return dict(settings.complete().own)[key]
