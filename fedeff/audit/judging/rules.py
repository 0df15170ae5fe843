"""What counts as a leak, and how sure a PASS has to be: fixed before the first trial."""

from dataclasses import dataclass

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["FAIL_ON", "Rules"]

FAIL_ON = ("images", "tokens", "labels")


@dataclass(frozen=True)
class Rules:
    """The thresholds of a verdict; the defaults are those of the project's audits.

    `fail_on` names what must not be rebuilt. `psnr_db` and `gain_db` (over what is guessed without the
    update) must both be reached by an image, `tokens` is a share of exact ones. `alpha` is the chance of
    a FAIL by identification where nothing leaks, Holm over attacks; the same of labels. `budget` is
    the share of updates that may leak: a PASS shows, at this confidence, that fewer do. Of the control's
    trials at least `control_share` have to leak.
    """

    fail_on: tuple[str, ...] = ("images", "tokens")
    psnr_db: float = 20.0
    gain_db: float = 6.0
    tokens: float = 0.2
    alpha: float = 0.01
    budget: float = 0.05
    confidence: float = 0.95
    control_share: float = 0.5

    def __post_init__(self) -> None:
        for name in self.fail_on:
            if name not in FAIL_ON:
                raise unknown_name("kind of leak", name, FAIL_ON)
        if not self.fail_on:
            raise ConfigError(f"nothing to fail on; name at least one of {', '.join(FAIL_ON)}")
        for name in ("tokens", "alpha", "budget", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name):g}; expected a share above 0 and below 1")
        if not 0 < self.control_share <= 1:
            raise ConfigError(f"control_share is {self.control_share:g}; expected a share above 0, at most 1")

    @property
    def samples(self) -> bool:
        """Whether images or tokens count, and not labels alone."""
        return "images" in self.fail_on or "tokens" in self.fail_on
