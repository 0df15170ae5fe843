"""What is to be made sparse, as a value that waits for the model."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedeff.clients.penalty import Penalty
from fedeff.clients.structure.force import Force
from fedeff.clients.structure.group_lasso import GroupLasso
from fedeff.clients.structure.groups import hidden_groups, structured_groups
from fedeff.core.errors import ConfigError, unknown_name
from fedeff.models import convolutions

__all__ = ["Sparsity"]

Method = Literal["ssl", "iss", "force"]
_METHODS = ("ssl", "iss", "force")


@dataclass(frozen=True)
class Sparsity:
    """A penalty to be: "ssl" and "iss" are group Lassos, "force" turns filters towards each other.

    `groups` are those of "ssl" (see `structured_groups`), `threshold` is for both group Lassos, `norm` and
    `direction` are of "force".
    """

    method: Method
    strength: float
    threshold: float = 0.0
    groups: tuple[str, ...] = ("filters", "channels", "neurons")
    norm: Literal["l1", "l2"] = "l2"
    direction: Literal["attract", "repel"] = "attract"

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise unknown_name("sparsity", self.method, _METHODS)

    def penalty(self, module: nn.Module) -> Penalty:
        """The penalty on the weights that this module has.

        Raises:
            ConfigError: for a module without anything that the method could make sparse.
        """
        made = self.remaining(module)
        if made is None:
            raise ConfigError(f"{type(module).__name__} has no {self._target}")
        return made

    def remaining(self, module: nn.Module) -> Penalty | None:
        """The penalty on what is left of a model; None where nothing is left that it could be on."""
        if self.method == "force":
            keys = tuple(f"{name}.weight" for name in convolutions(module))
            return Force(keys, self.strength, self.norm, self.direction) if keys else None
        hidden = self.method == "iss"
        families = hidden_groups(module) if hidden else structured_groups(module, self.groups)
        return GroupLasso(families, self.strength, self.threshold) if families else None

    @property
    def _target(self) -> str:
        """What the method works on, and where there is some."""
        if self.method == "force":
            return "convolutions; sparsity 'force' is for models such as cnn"
        if self.method == "iss":
            return "hidden units that pass on a state; sparsity 'iss' is for models such as lstm and gru"
        return (
            f"groups {'+'.join(self.groups)} that train; filters, channels, shapes and kernels are of "
            "convolutional models, neurons of dense ones, depth of residual ones"
        )
