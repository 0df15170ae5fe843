"""The part of the settings that says what a client does to its change before it tells it."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedeff.app.allowed import at_least, one_of, setting
from fedeff.core.errors import ConfigError

__all__ = ["LocalPrivacySettings"]

Value = bool | int | float | str

# Strategies that ask clients for more than a change, or make more of it than a mean.
_MEASURING = {
    "adaptive-update": "whose clients tell how far their gradients agree",
    "two-phase": "whose clients tell the curvature of their loss",
    "gradient-coding": "which decodes exact gradients",
}
_REMEMBERING = ("error_feedback", "ef21")  # what they left out; power_sgd keeps a direction alone


@dataclass(frozen=True)
class LocalPrivacySettings:
    """Local differential privacy and DP-SGD; see `docs/differential-privacy.md`."""

    local_clipping_norm: float = setting(
        0.0,
        "norm that a client clips its change to before it tells it, 0 for none: L2, with laplace noise L1",
        at_least(0),
    )
    local_noise_multiplier: float = setting(
        0.0,
        "noise that a client puts on each value of its change, over that norm; its scale where nothing is "
        "clipped, which guarantees nothing",
        at_least(0),
    )
    local_noise: str = setting("gaussian", "the kind of that noise", one_of("gaussian", "laplace"))
    dp_sgd_clipping_norm: float = setting(
        0.0, "L2 norm that each row's gradient is clipped to in local training, 0 for none", at_least(0)
    )
    dp_sgd_noise_multiplier: float = setting(
        0.0, "Gaussian noise on a batch's sum of clipped gradients, over that norm", at_least(0)
    )

    def check_local_privacy(self, run: Mapping[str, Value]) -> None:
        """Raise ConfigError where the other settings (`run`, by key) would tell what noise is to hide."""
        if self.dp_sgd_noise_multiplier and not self.dp_sgd_clipping_norm:
            raise ConfigError(
                f"dp-sgd-noise-multiplier = {self.dp_sgd_noise_multiplier:g} without dp-sgd-clipping-norm: "
                "noise is for clipped gradients; set -c dp-sgd-clipping-norm=1.0"
            )
        for key, on in (
            ("local-clipping-norm", self.local_clipping_norm),
            ("local-noise-multiplier", self.local_noise_multiplier),
            ("dp-sgd-clipping-norm", self.dp_sgd_clipping_norm),
        ):
            if on and run["strategy"] in _MEASURING:
                raise ConfigError(
                    f"{key} = {on:g} with strategy = {run['strategy']!r}, "
                    f"{_MEASURING[str(run['strategy'])]}; take one that averages, such as fedavg"
                )
        if self.dp_sgd_clipping_norm:
            self._check_training(run)
        if self.local_noise_multiplier or self.dp_sgd_noise_multiplier:
            self._check_quiet(run)

    def _check_training(self, run: Mapping[str, Value]) -> None:
        """What DP-SGD cannot do: clip the gradients of losses that mix rows."""
        for key, plain in (("objective", "supervised"), ("autocast", False), ("vectorise", None)):
            if run[key] == plain or (key == "vectorise" and run[key] != "always"):
                continue
            raise ConfigError(
                f"{key} = {run[key]!r} with dp-sgd-clipping-norm = {self.dp_sgd_clipping_norm:g}, which "
                "clips the gradient of each row's own loss in the plain loop; leave one of them out"
            )

    def _check_quiet(self, run: Mapping[str, Value]) -> None:
        """What clients would say beside their noisy change, or codecs would remember of the noise."""
        if run["evaluate-clients"]:
            raise ConfigError(
                f"evaluate-clients = {run['evaluate-clients']} with noise of the clients' own: what they say "
                "of the model has no noise; set -c evaluate-clients=0"
            )
        if run["strategy"] == "adaptive-batch" and not run.get("grow-every"):
            raise ConfigError(
                "strategy = 'adaptive-batch' waits for a plateau of the training loss, which noisy clients "
                "do not tell; set -c grow-every=5 or another number of rounds"
            )
        found = [name for name in _REMEMBERING if name in str(run["codec"])]
        if self.local_noise_multiplier and found:
            raise ConfigError(
                f"codec {run['codec']!r} with local-noise-multiplier = {self.local_noise_multiplier:g}: "
                f"{found[0]} remembers what it left out, noise among it, and tells it later, so values have "
                "other noise than is on record; take a codec without memory, such as top_k(0.1)"
            )
