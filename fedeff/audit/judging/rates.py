"""What clean trials prove: exact bounds on a rate, and tests that correct for trying several attacks."""

import math
from collections.abc import Mapping

from scipy.special import bdtrc, betaincinv

from fedeff.core.errors import ConfigError

__all__ = ["chance_of", "clean_trials_for", "holm", "rate_below"]


def rate_below(leaks: int, trials: int, confidence: float = 0.95) -> float:
    """The exact one-sided upper bound on a rate after so many leaks (Clopper & Pearson 1934).

    Trials must be independent draws of what is to be judged. With no leak it is
    `1 - (1 - confidence) ** (1 / trials)`; without trials nothing is known: 1.
    """
    if not 0 <= leaks <= trials:
        raise ConfigError(f"{leaks} leaks in {trials} trials; expected at most one each")
    return 1.0 if leaks == trials else float(betaincinv(leaks + 1, trials - leaks, confidence))


def chance_of(hits: int, tries: int, rate: float) -> float:
    """The probability of so many hits or more in independent tries, each of which hits at this rate."""
    return 1.0 if hits <= 0 else float(bdtrc(hits - 1, tries, rate))


def clean_trials_for(budget: float, confidence: float = 0.95) -> int:
    """How many trials without a leak show that the rate is below the budget: 59 for 5% at 95%."""
    if not 0 < budget < 1:
        raise ConfigError(f"budget is {budget:g}; expected a leak rate above 0 and below 1")
    return math.ceil(math.log(1 - confidence) / math.log(1 - budget))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted for their number (Holm 1979): below alpha, all are true with 1 - alpha at least."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted
