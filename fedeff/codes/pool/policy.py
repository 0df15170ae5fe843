"""What a pool is told at its start: how long to wait, and what to do when that was not enough."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fedeff.core.errors import ConfigError

__all__ = ["OnUndecodable", "Policy"]

OnUndecodable = Literal["wait", "raise", "default"]


@dataclass(frozen=True)
class Policy:
    """The settings of a `CodedActorPool`; seconds count on the pool's clock."""

    deadline_s: float | None = None  # of a group, from when its first task was sent
    hedge_after_s: float | None = None  # a task that is out this long is sent again
    flush_after_s: float = 0.01  # a group that is open this long is closed though short
    min_quality: float = 0.0  # of an estimate, to be given as an answer
    on_undecodable: OnUndecodable = "wait"
    default: object = None

    def __post_init__(self) -> None:
        for name in ("deadline_s", "hedge_after_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; expected a positive number of seconds, or None")
        if not (math.isfinite(self.flush_after_s) and self.flush_after_s >= 0):
            raise ConfigError(f"flush_after_s is {self.flush_after_s}; expected 0 or more seconds")
        if not 0 <= self.min_quality <= 1:
            raise ConfigError(f"min_quality is {self.min_quality}; expected a number in [0, 1]")
        if self.on_undecodable not in get_args(OnUndecodable):
            raise ConfigError(
                f"on_undecodable is {self.on_undecodable!r}; expected 'wait', 'raise' or 'default'"
            )
        if self.on_undecodable != "wait" and self.deadline_s is None:
            raise ConfigError(
                f"on_undecodable={self.on_undecodable!r} without a deadline; give deadline_s, or use 'wait'"
            )
