"""One claim of the settings beside what was measured: noise, clipping, masks; arithmetic on arrays alone."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedeff.audit.view import NDArray
from fedeff.core.errors import AuditError
from fedeff.core.field import PRIME, Elements

__all__ = ["Wiring", "clipping_wiring", "masking_wiring", "noise_wiring"]

_SIGMAS = 6.0  # a right measurement is further off once in 10^9
_COARSE = 0.5  # of the claimed deviation, where it is known to first order only
_LEAST_P = 1e-9
_NOT_APPLIED = "the defence is not applied before the server sees the update"


@dataclass(frozen=True)
class Wiring:
    """One claim of the settings beside what was measured in what clients sent; `sentence` says both."""

    claim: str
    claimed: float
    measured: float
    holds: bool
    sentence: str


def noise_wiring(
    claim: str,
    told: Mapping[str, NDArray],
    clean: Mapping[str, NDArray],
    std: float,
    *,
    exact: bool = True,
    kurtosis: float = 3.0,
    rounding: float = 0.0,
) -> Wiring:
    """Whether `told` is `clean` with noise of this standard deviation on each value (flat arrays by key).

    Where it is not `exact` it may be more, and down to half of it. `kurtosis` of the noise says how far its
    measured variance strays; `rounding` is the deviation of the wire's own.
    """
    gaps = np.concatenate([np.ravel(told[key] - clean[key]) for key in told]) if told else np.zeros(0)
    if not gaps.size:
        raise AuditError(
            f"no value came in both views, so {claim} cannot be measured; capture more of a model"
        )
    measured = float(np.sqrt(np.mean(np.square(gaps))))
    if not std:
        holds, said = measured > 0, "noise"
    else:
        stray = _SIGMAS * math.sqrt((kurtosis - 1) / gaps.size)
        least = std * math.sqrt(max(0.0, 1 - stray)) if exact else _COARSE * std
        most = math.hypot(std * math.sqrt(1 + stray), 4 * rounding) if exact else math.inf
        holds, said = least <= measured <= most, f"noise of {std:.3g} on each value"
    seen = f"{measured:.3g} in {gaps.size} values"
    more = "that is more than is on record, so epsilon and accuracy are not what they are taken for"
    return Wiring(
        claim,
        std,
        measured,
        holds,
        f"{claim}: {said} is there: {seen}"
        if holds
        else f"{claim}: the settings say {said}, but what clients send carries {seen}; "
        f"{more if measured > std > 0 else _NOT_APPLIED}",
    )


def clipping_wiring(claim: str, norm: float, bound: float, rounding: float = 0.0) -> Wiring:
    """Whether a change of this norm keeps to the bound, but for the wire's rounding."""
    holds = norm <= bound * (1 + 1e-6) + 4 * rounding
    return Wiring(
        claim,
        bound,
        norm,
        holds,
        f"{claim}: the change has norm {norm:.3g}, at most {bound:.3g}"
        if holds
        else f"{claim}: the settings say a norm of at most {bound:.3g}, but what clients send has "
        f"{norm:.3g}; {_NOT_APPLIED}",
    )


def masking_wiring(vectors: Sequence[Elements]) -> Wiring:
    """Whether vectors that clients sent to a secure sum, and what two of them differ by, look uniform.

    `claimed` and `measured` are probabilities: of a Kolmogorov-Smirnov test the least that is taken for
    chance, and the least found.
    """
    from scipy.stats import kstest  # most of a second of imports, needed for secure sums only

    if len(vectors) < 2:
        raise AuditError(f"{len(vectors)} vectors came to the secure sum, expected at least 2")
    apart = [np.mod(a - b, PRIME) for a, b in itertools.pairwise(vectors)]
    found = min(float(kstest(one / PRIME, "uniform").pvalue) for one in (*vectors, *apart))
    holds = found >= _LEAST_P
    return Wiring(
        "masking",
        _LEAST_P,
        found,
        holds,
        f"masking: {len(vectors)} vectors look uniform (p = {found:.2g})"
        if holds
        else f"masking: the settings say secure aggregation, but the server can read single vectors (uniform "
        f"with p = {found:.2g}); clients do not mask what they send",
    )
