"""Force regularisation: filters that pull each other into a space of lower rank."""

from dataclasses import dataclass
from typing import Literal

import torch

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["Force"]

_NORMS, _DIRECTIONS = ("l2", "l1"), ("attract", "repel")


@dataclass(frozen=True)
class Force:
    """A gradient that turns the filters of each layer towards each other, or away from each other.

    With `w` the filters scaled to length 1, filter i is moved by `strength * ||W_i|| * sum_j (f_ji -
    (f_ji . w_i) w_i)`, `f_ji = w_j - w_i` ("l2") or that scaled to length 1 ("l1"); dissertation of
    W. Wen, Duke 2019, eq. 3.2 to 3.5. A filter turns and keeps its length. "repel" takes the opposite
    sign (discrimination regularisation, section 3.3.5). Filters that are zero neither pull nor turn.
    Of no use from scratch: begin with trained filters. Not the gradient of any penalty on the weights.
    """

    keys: tuple[str, ...]  # of weights (filters, ...)
    strength: float
    norm: Literal["l1", "l2"] = "l2"
    direction: Literal["attract", "repel"] = "attract"

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ConfigError(f"force got strength {self.strength}; it must be a number of at least 0")
        if self.norm not in _NORMS:
            raise unknown_name("force norm", self.norm, _NORMS)
        if self.direction not in _DIRECTIONS:
            raise unknown_name("force direction", self.direction, _DIRECTIONS)

    def add_to(self, weights: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        """Take the movement off the gradients, which are gone against."""
        towards = self.strength if self.direction == "attract" else -self.strength
        for key in self.keys:
            filters = weights[key]
            moved = turning(filters.flatten(1), self.norm).view(filters.shape)
            gradients[key].sub_(moved, alpha=towards)

    def after_step(self, weights: dict[str, torch.Tensor]) -> None:
        """Nothing follows a step."""


def turning(filters: torch.Tensor, norm: Literal["l1", "l2"]) -> torch.Tensor:
    """`||W_i|| * sum_j (f_ji - (f_ji . w_i) w_i)` for each row of (filters, entries)."""
    length = filters.norm(dim=1, keepdim=True)
    there = length > 0
    unit = torch.where(there, filters / length, 0)
    if norm == "l2":
        force: torch.Tensor = unit.sum(0) - there.sum() * unit
    else:
        apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
        pulls = torch.where((apart > 0) & there.T, 1 / apart, 0)
        force = pulls @ unit - pulls.sum(1, keepdim=True) * unit
    turned: torch.Tensor = force - (force * unit).sum(1, keepdim=True) * unit
    moved: torch.Tensor = length * turned
    return moved
