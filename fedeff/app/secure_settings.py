"""The part of the settings that says how replies are summed without being seen."""

from dataclasses import dataclass

from fedeff.app.allowed import above, anything, at_least, below, inside, one_of, setting
from fedeff.core.errors import ConfigError

__all__ = ["SecureSettings"]

# Strategies that want nothing of a round's replies but their weighted sum, or that and their spread.
_SUMMING = ("fedavg", "fedprox", "fedlama", "partial")


@dataclass(frozen=True)
class SecureSettings:
    """Secure aggregation; see `docs/secure-aggregation.md`."""

    secure_aggregation: str = setting(
        "none",
        "sum clients' replies so that the server sees none of them",
        one_of("none", "lightsecagg", "secagg", "secagg+"),
    )
    secure_dropout: float = setting(
        0.3, "share of a cohort that may be lost on the way to a secure sum", below(0, 0.5)
    )
    secure_privacy: float = setting(
        0.2, "share of a cohort that may collude with the server and learn nothing", inside(0, 1)
    )
    secure_neighbours: int = setting(
        0, "of secagg+: clients that each shares secrets with, 0 for as many as that needs", at_least(0)
    )
    secure_clip: float = setting(
        16.0, "largest value of either sign in a secure sum; a client with a larger one is left out", above(0)
    )
    secure_fraction_bits: int = setting(
        0, "bits after the point in a secure sum, 0 for as many as cannot overflow", anything("whole numbers")
    )
    secure_max_examples: int = setting(10_000, "the most examples of a client in a secure sum", at_least(1))

    def check_secure(
        self, strategy: str, codec: str, *, evaluate_clients: int, private: bool, shared_scale: bool
    ) -> None:
        """Raise ConfigError where the other settings would show what secure aggregation hides."""
        if self.secure_aggregation == "none":
            return
        said = f"secure-aggregation = {self.secure_aggregation!r}"
        if strategy not in _SUMMING:
            raise ConfigError(
                f"{said} with strategy = {strategy!r}, which looks at single replies; "
                f"take {', '.join(_SUMMING)}"
            )
        if evaluate_clients:
            raise ConfigError(
                f"{said} with evaluate-clients = {evaluate_clients}: scores would come one by one; "
                "set -c evaluate-clients=0, the server evaluates the model itself"
            )
        if private:
            raise ConfigError(
                f"{said} with noise-multiplier above 0: the server, which clips updates, must not see them; "
                "take one of the two"
            )
        if shared_scale:
            raise ConfigError(
                f"{said} with codec-shared-scale = true, which tells the scale of each reply; leave it out"
            )
        self._check_codec(codec)

    def _check_codec(self, spec: str) -> None:
        from fedeff.secure.linear_codec import linear_codec  # here, since help and errors need no NumPy

        linear_codec(spec, 0)
