"""The part of the settings that says how much of a client a run may reveal."""

from dataclasses import dataclass

from fedeff.app.allowed import above, at_least, inside, one_of, setting
from fedeff.core.errors import ConfigError

__all__ = ["PrivacySettings"]


@dataclass(frozen=True)
class PrivacySettings:
    """Differential privacy of clients; see `docs/differential-privacy.md`."""

    noise_multiplier: float = setting(
        0.0, "noise on the sum of clipped updates, over the clipping norm; 0 for no privacy", at_least(0)
    )
    clipping_norm: float = setting(1.0, "L2 norm that updates are clipped to under noise", above(0))
    privacy_delta: float = setting(1e-5, "delta at which epsilon is told", inside(0, 1))
    max_epsilon: float = setting(
        0.0, "the run ends before a client's epsilon is above it, 0 for never", at_least(0)
    )
    privacy_noise: str = setting(
        "secret", "where noise is from; seeded noise repeats, and hides nothing", one_of("secret", "seeded")
    )

    def check_privacy(self, *, evaluate_clients: int, shared_scale: bool) -> None:
        """Raise ConfigError where something else that the settings ask for would not be private."""
        if not self.noise_multiplier:
            return
        if shared_scale:
            raise ConfigError(
                "codec-shared-scale = true with noise: the largest scale of the clients is not private; "
                "set -c codec-shared-scale=false"
            )
        if evaluate_clients:
            raise ConfigError(
                f"evaluate-clients = {evaluate_clients} with noise-multiplier = "
                f"{self.noise_multiplier:g}: what clients say of the model is not private; "
                "set -c evaluate-clients=0"
            )
