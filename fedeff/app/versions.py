"""Versions of a run's model: the server decides when it becomes smaller, clients follow what messages say.

See docs/decisions/model-versions.md.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecordValues
from torch import nn

from fedeff.app.settings import Settings
from fedeff.clients.structure import Sparsity
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.layers import NDArray, decode_record, encode_record
from fedeff.models import Structure, apply, saving_ranks, what_can_go

__all__ = ["ModelVersions", "ShrinkPlan", "plan_of", "sparsity_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShrinkPlan:
    """When a run's model becomes smaller, and by what rule.

    For the first `rounds` rounds clients train with their penalty; every `every`-th of them (0: none) and at
    their end the model is cut at `threshold`, with "force" decomposed at `rank_error`, at their end
    alone. The rest of the run is fine-tuning.
    """

    method: Literal["ssl", "iss", "force"]
    rounds: int
    every: int = 0
    threshold: float = 0.0
    rank_error: float = 0.05

    def due(self, first: int, last: int) -> bool:
        """Whether the model of round `last` is to be cut, the first whole one since round `first - 1`."""
        return self.ends(last) or bool(self._cuts and last // self.every > (first - 1) // self.every)

    def ends(self, last: int) -> bool:
        """Whether the penalty's rounds are over after this one."""
        return last >= self.rounds

    def change(self, module: nn.Module) -> Structure:
        """What is to become of a module with these weights."""
        if self.method == "force":
            return Structure(ranks=saving_ranks(module, self.rank_error))
        return what_can_go(module, self.threshold)

    @property
    def _cuts(self) -> bool:
        return self.every > 0 and self.method != "force"


@dataclass
class ModelVersions:
    """Which structure a run's model has now, and what comes next by a plan; without one it stays as built.

    `build()` makes the model as built, the same every time.
    """

    build: Callable[[], nn.Module]
    plan: ShrinkPlan | None = None
    structure: Structure = field(default_factory=Structure)
    fine_tuning: bool = False  # whether the penalty's rounds are over
    _made: nn.Module | None = None

    def told(self) -> dict[str, ConfigRecordValues]:
        """What messages say of the model: nothing where it is and stays as it was built."""
        if self.plan is None:
            return {}
        return {
            "model-version": self.structure.version,
            "structure": self.structure.json,
            "penalty": not self.fine_tuning,
        }

    def module(self) -> nn.Module:
        """A module of the present structure, the same one until it changes; its weights are nobody's."""
        if self._made is None:
            self._made = apply(self.structure, self.build())
        return self._made

    def after(self, first: int, last: int, model: ArrayRecord) -> ArrayRecord | None:
        """The smaller model that the next round begins with; None where the model stays as it is.

        `model` is that of round `last`, the first whole one since round `first - 1`; with `first` after
        `last` it is none, and stays.
        """
        if self.plan is None or self.fine_tuning or first > last or not self.plan.due(first, last):
            return None
        self.fine_tuning = self.plan.ends(last)
        held = self.module()
        weights = {key: torch.from_numpy(values.copy()) for key, values in decode_record(model).items()}
        held.load_state_dict(weights)
        change = self.plan.change(held)
        if change.is_whole:
            return None
        smaller = apply(change, held)
        self.structure, self._made = self.structure.then(change), smaller
        state = {key: values.cpu().contiguous().numpy() for key, values in smaller.state_dict().items()}
        _log.info(
            "round %d: model version %d has %d parameters, version %d had %d",
            *(last, self.structure.version, _entries(state), self.structure.version - 1, _entries(weights)),
        )
        return encode_record({key: values.copy() for key, values in state.items()})

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold to go on; nothing without a plan."""
        if self.plan is None:
            return {}
        about = json.dumps({"structure": self.structure.json, "fine-tuning": self.fine_tuning})
        return {"about": np.frombuffer(about.encode(), np.uint8)}

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if it is no such state.
        """
        if not state:
            return
        try:
            about = json.loads(state["about"].tobytes())
            self.structure = Structure.from_json(about["structure"])
            self.fine_tuning = bool(about["fine-tuning"])
        except (KeyError, ValueError, TypeError, ConfigError) as error:
            raise ResumeError(
                f"a checkpoint's model version cannot be read: {error}; start a new run"
            ) from error
        self._made = None


def sparsity_of(settings: Settings) -> Sparsity | None:
    """What clients make sparse; None where nothing is to be.

    Raises:
        ConfigError: for groups of weights that are none.
    """
    if settings.sparsity == "none":
        return None
    method = cast(Literal["ssl", "iss", "force"], settings.sparsity)
    return Sparsity(
        method,
        settings.sparsity_strength or _STRENGTHS[method],
        settings.sparsity_threshold,
        tuple(settings.sparsity_groups.split("+")),
        cast(Literal["l1", "l2"], settings.force_norm),
        cast(Literal["attract", "repel"], settings.force_direction),
    )


def plan_of(settings: Settings) -> ShrinkPlan | None:
    """When the settings have the model become smaller; None where it is to stay as it is.

    Raises:
        ConfigError: for a strategy whose clients move no weights, and where no round would be left that has
            a smaller model.
    """
    if settings.sparsity == "none":
        return None
    if not settings.clients_step:
        raise ConfigError(
            f"sparsity = {settings.sparsity!r} with strategy = {settings.strategy!r}, whose clients take no "
            "steps that a penalty could bend; use another strategy, or sparsity=none"
        )
    plan = ShrinkPlan(
        cast(Literal["ssl", "iss", "force"], settings.sparsity),
        settings.sparsity_rounds or max(1, settings.num_server_rounds * 2 // 3),
        settings.shrink_every,
        settings.sparsity_threshold,
        settings.rank_error,
    )
    if not any(plan.due(number, number) for number in range(1, settings.num_server_rounds)):
        raise ConfigError(
            f"with sparsity-rounds = {plan.rounds} and shrink-every = {plan.every} none of the "
            f"{settings.num_server_rounds} rounds has a smaller model; set -c sparsity-rounds=... to fewer"
        )
    return plan


_STRENGTHS = {"ssl": 0.002, "iss": 0.002, "force": 0.0005}  # where the settings give none


def _entries(arrays: Mapping[str, Any]) -> int:
    return sum(math.prod(values.shape) for values in arrays.values())
