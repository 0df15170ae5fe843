"""What a run has revealed of any one client: epsilon by Renyi accounting, client by client."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from fedeff.core.errors import ConfigError, PrivacyError

__all__ = ["Participation", "epsilon_of"]


def epsilon_of(noise_multiplier: float, releases: int, delta: float) -> float:
    """The epsilon of so many Gaussian releases of sensitivity 1, by the accountant that `flwr[dp]` uses.

    Without noise it is infinite, without releases 0. Nothing is taken off for random cohorts: who is drawn
    follows from a seed that is on record, and amplification by sampling needs a secret draw.

    Raises:
        PrivacyError: if dp-accounting is not installed.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"privacy-delta is {delta}, expected a probability above 0, such as 1e-5")
    if releases == 0:
        return 0.0
    if not noise_multiplier > 0:
        return math.inf
    from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod

    config = PrivacyConfig(delta, 1, NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION)
    try:
        from flwr.serverapp import RdpAccountant

        accountant = RdpAccountant(config)
    except ImportError as error:
        raise PrivacyError(
            "privacy is accounted for by dp-accounting, which is not installed; pip install 'fedeff[dp]'"
        ) from error
    accountant.compose(GaussianPrivacyEvent(noise_multiplier, 1, 1), releases)
    return accountant.get_epsilon(delta)


class Participation:
    """In how many releases each client was asked; the one asked most often bounds what is revealed of any.

    Whom a round asks does not depend on anybody's data, so a release reveals nothing of those that it did
    not ask. After a restart clients may have other node ids: the most that was counted before is then
    added to everybody's.
    """

    def __init__(self, noise_multiplier: float, delta: float) -> None:
        self.noise_multiplier, self.delta = noise_multiplier, delta
        self.releases = 0
        self._asked: Counter[int] = Counter()
        self._before = 0
        epsilon_of(noise_multiplier, 0, delta)  # an impossible delta is refused here

    def ask(self, nodes: Iterable[int]) -> None:
        """Count a release in which these may take part."""
        self.releases += 1
        self._asked.update(set(nodes))

    @property
    def most(self) -> int:
        """Releases of the client that was asked most often."""
        return self._before + max(self._asked.values(), default=0)

    def most_with(self, nodes: Iterable[int]) -> int:
        """The same if these were asked once more."""
        return max(self.most, self._before + max((self._asked[node] + 1 for node in nodes), default=0))

    @property
    def epsilon(self) -> float:
        """What was revealed so far of the client that was asked most often."""
        return epsilon_of(self.noise_multiplier, self.most, self.delta)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold."""
        return {"releases": np.array([self.releases, self.most])}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned."""
        self._asked.clear()
        self.releases, self._before = (int(count) for count in state["releases"])
