"""The group Lasso: groups of weights that the data does not need shrink to nothing."""

from dataclasses import dataclass

import torch

from fedeff.clients.structure.groups import Family
from fedeff.core.errors import ConfigError

__all__ = ["GroupLasso"]


@dataclass(frozen=True)
class GroupLasso:
    """`strength * sum_g sqrt(epsilon + ||w_g||^2)` over groups of weights, those that got small set to zero.

    Structured sparsity learning and intrinsic sparse structures (dissertation of W. Wen, Duke 2019,
    eq. 2.1 to 2.3 and 2.5 to 2.7). After each step groups whose entries have a root mean square of at
    most `threshold` are zeroed; the dissertation does so entry by entry. They may come back, as the loss
    goes on to move them, so this alone makes a model neither smaller nor faster: see `fedeff.models.shrink`.
    All groups are pulled alike, however many weights they have.
    """

    families: tuple[Family, ...]
    strength: float
    threshold: float = 0.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name, least in (("strength", 0.0), ("threshold", 0.0), ("epsilon", 1e-30)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise ConfigError(
                    f"group Lasso got {name} {value}; it must be a number of at least {least:g}"
                )

    def value(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """The penalty itself, a scalar."""
        lengths = [(family.squares(weights) + self.epsilon).sqrt().sum() for family in self.families]
        return self.strength * torch.stack(lengths).sum()

    def add_to(self, weights: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        """Add `strength * w / sqrt(epsilon + ||w_g||^2)` for each group that a weight is in."""
        for family in self.families:
            pull = (family.squares(weights) + self.epsilon).rsqrt_().mul_(self.strength)
            for member in family.members:
                view = member.view(weights[member.key])
                member.view(gradients[member.key]).addcmul_(view, _spread(pull, view), value=member.sign)

    def after_step(self, weights: dict[str, torch.Tensor]) -> None:
        """Zero the groups at or under the threshold."""
        if not self.threshold:
            return
        for family in self.families:
            small = family.squares(weights) <= self.threshold**2 * family.size(weights)
            for member in family.members:
                view = member.view(weights[member.key])
                view.masked_fill_(_spread(small, view), 0)


def _spread(groups: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """A value for each group in the shape that goes with each of its entries."""
    return groups.view(*groups.shape, *[1] * (view.dim() - groups.dim()))
