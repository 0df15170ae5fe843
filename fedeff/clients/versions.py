"""The models that a client's process trains, by structure, and the penalty on each."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedeff.clients.penalty import Penalty
from fedeff.clients.personal_parameters import PersonalParameters
from fedeff.core.errors import ConfigError
from fedeff.models import Structure, apply

__all__ = ["BuiltModel", "BuiltModels"]

_KEPT = 2  # models of one process: that of the round, and the one before for late messages


@dataclass(frozen=True)
class BuiltModel:
    """A module of some structure, where it is trained; the keys of its arrays; the penalty on them.

    `personal` are those of its parameters that stay with each client.
    """

    module: nn.Module
    keys: tuple[str, ...]
    penalty: Penalty | None
    personal: PersonalParameters


class BuiltModels:
    """Models made of what `make()` gives, one for each structure that messages name, built at first use.

    `penalise` makes the penalty for a module. Travels to another process without the models.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        device: str,
        penalise: Callable[[nn.Module], Penalty | None] | None = None,
    ) -> None:
        self._make, self._device, self._penalise = make, device, penalise
        self._built: OrderedDict[str, BuiltModel] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_built": OrderedDict()}

    def of(self, structure: Structure) -> BuiltModel:
        """The model of this structure.

        Raises:
            ConfigError: if the structure was made for another model, or the device is not there.
        """
        name = structure.json
        if name not in self._built:
            self._built[name] = self._new(structure)
            while len(self._built) > _KEPT:
                self._built.popitem(last=False)
        self._built.move_to_end(name)
        return self._built[name]

    def _new(self, structure: Structure) -> BuiltModel:
        whole = self._make()
        module = whole if structure.is_whole else apply(structure, whole)
        placed = _placed(module, self._device)
        penalty = None if self._penalise is None else self._penalise(placed)
        return BuiltModel(placed, tuple(placed.state_dict()), penalty, PersonalParameters(placed))


def _placed(model: nn.Module, device: str) -> nn.Module:
    """The model on its device, laid out for it; on a CPU this process is set to one torch thread."""
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no GPU here; use device 'cpu'")
    if kind == "cpu":
        # Clients run side by side in processes; a second thread would also change the sums.
        torch.set_num_threads(1)
    model = model.to(device)
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
