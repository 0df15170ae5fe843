"""DiLoCo (Douillard et al., arXiv:2311.08105) with staggered fragments (arXiv:2501.18512)."""

import logging
from collections.abc import Mapping
from typing import Unpack

import numpy as np

from fedeff.core.layers import decode, decode_record
from fedeff.strategies.byte_groups import Groups, groups_of_layers
from fedeff.strategies.cycles import Config, CycleAvg
from fedeff.strategies.fedavg import FedAvgOptions, at_least
from fedeff.strategies.nesterov import Nesterov
from fedeff.strategies.weighted_sum import Layout, NDArray, Total, mean

__all__ = ["DiLoCo"]

_log = logging.getLogger(__name__)


class DiLoCo(CycleAvg):
    """AdamW on the clients, Nesterov momentum on the server (arXiv:2311.08105, algorithm 1).

    The server takes the distance from its model to the clients' weighted mean for a gradient. With
    `outer_learning_rate=1, outer_momentum=0` and one fragment it is FedAvg, to rounding.

    `fragments` cuts the layers into so many groups of nearly equal bytes; each is averaged once in so
    many rounds, one after the other (Streaming DiLoCo, arXiv:2501.18512). A cycle with one
    cohort has `sweeps` times `fragments` rounds. With `close_cycles` its last round sends every fragment,
    so that nothing is lost of what the cohort learned when another one is drawn, and so does the last of
    a run; without, each fragment travels exactly once a sweep, which is meant for long cycles of the same
    few clients.

    Clients get `inner_optimizer` and `inner_learning_rate` and keep their moments between rounds
    (`keep_optimizer`); an empty name and a rate of 0 leave theirs as they are. Not for models with
    running statistics (BatchNorm), which momentum spoils. `cohort` and the rest of `options` are those of
    `CycleAvg`.
    """

    def __init__(
        self,
        *,
        outer_learning_rate: float = 0.7,
        outer_momentum: float = 0.9,
        fragments: int = 1,
        sweeps: int = 1,
        close_cycles: bool = True,
        inner_optimizer: str = "adamw",
        inner_learning_rate: float = 0.001,
        keep_optimizer: bool = True,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        at_least("fragments", fragments, 1)
        at_least("sweeps", sweeps, 1)
        at_least("inner_learning_rate", inner_learning_rate, 0)
        super().__init__(
            rounds_per_cycle=fragments * sweeps,
            keep_optimizer=keep_optimizer,
            **options,
        )
        self.outer = Nesterov(outer_learning_rate, outer_momentum)
        self.fragments = fragments
        self.sweeps = sweeps
        self.close_cycles = self.closes_run = close_cycles
        self.inner_optimizer = inner_optimizer
        self.inner_learning_rate = inner_learning_rate
        self._velocities: dict[str, NDArray] = {}  # by key, float64; none before its first step

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info(
            "outer Nesterov: rate %g, momentum %g; %d fragments, one a round; clients use %s",
            *(self.outer.learning_rate, self.outer.momentum, self.fragments),
            self.inner_optimizer or "their own optimizer",
        )

    def parts(self) -> Groups:
        """The fragments of the model under way.

        Raises:
            ConfigError: if the model has fewer layers.
        """
        return groups_of_layers(decode_record(self.model), self.fragments)

    def due(self, cycle_round: int) -> tuple[str, ...]:
        """One fragment, in turn; all arrays in the last round of a cycle that is closed."""
        fragments = self.parts()
        if self.close_cycles and cycle_round == self.rounds_per_cycle - 1:
            return tuple(self.model)
        return fragments[cycle_round % self.fragments]

    def round_config(self, cycle_round: int) -> Config:
        """The inner optimiser, beside what every cycle needs."""
        config = super().round_config(cycle_round)
        if self.inner_optimizer:
            config["optimizer"] = self.inner_optimizer
        if self.inner_learning_rate:
            config["learning-rate"] = self.inner_learning_rate
        return config

    def absorb(self, server_round: int, total: Total, layout: Layout) -> dict[str, NDArray]:
        """The fragments that were due after the outer step; arrays of integers get their mean."""
        new = mean(total, tuple(spec for spec in layout if spec.dtype.kind != "f"))
        for spec in layout:
            if spec.dtype.kind == "f":
                velocity = self._velocities.get(spec.key, np.zeros(spec.shape))
                average, held = total.sums[spec.key] / total.weight, decode(self.model[spec.key])
                moved, self._velocities[spec.key] = self.outer.step(held, average, velocity)
                new[spec.key] = moved.astype(spec.dtype)
        return new

    def model_replaced(self) -> None:
        """Forget the velocities, too: momentum begins anew."""
        super().model_replaced()
        self._velocities = {}

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold beside the model to go on: velocities, and who is in step."""
        return super().state() | {_velocity(key): values for key, values in self._velocities.items()}

    def take_up(self, state: Mapping[str, NDArray]) -> None:
        """Set what `state` gave. Raises KeyError or ValueError where it is another strategy's."""
        super().take_up(state)
        self._velocities = {
            key.removeprefix(_velocity("")): values
            for key, values in state.items()
            if key.startswith(_velocity(""))
        }


def _velocity(key: str) -> str:
    return f"velocity/{key}"
