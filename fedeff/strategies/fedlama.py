"""FedLAMA: layers that drift little are averaged less often (Lee et al., arXiv:2110.10302)."""

import logging
import math
from collections.abc import Mapping
from typing import Unpack

import numpy as np
from flwr.app import ArrayRecord

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.layers import decode_record, group_layers
from fedeff.strategies.cycles import CycleAvg
from fedeff.strategies.fedavg import FedAvgOptions, at_least
from fedeff.strategies.layer_intervals import RULES, Rule, relaxed_layers
from fedeff.strategies.spread import SpreadSum, SpreadTotal
from fedeff.strategies.weighted_sum import Layout, NDArray, Total

__all__ = ["FedLAMA", "layer_sizes", "unit_discrepancies"]

_log = logging.getLogger(__name__)


class FedLAMA(CycleAvg):
    """Layers whose clients drift apart little for their size are averaged every `phi` rounds, others always.

    A round is the base interval `tau'`: the client's local steps. `phi` rounds are a cycle with one
    cohort, at whose end every layer is averaged. Before each cycle the intervals are set from the unit
    discrepancies that were measured whenever a layer was averaged (algorithm 1); until every layer has
    been measured once, that is in the first cycle, all have the base interval. `rule` says whether the
    layer at which the threshold is crossed is relaxed too (see `relaxed_layers`).
    `discrepancy_ema` in [0, 1) is the weight of a layer's earlier discrepancy, 0 for the last one alone;
    it steadies the choice where cohorts differ much. `first_cycle_rounds` is the length of the cycle in
    which everything is averaged and measured, 0 for `phi` as in the paper: 1 saves bytes in short runs.
    With `phi=1` this is FedAvg.

    Within a cycle the server's model mixes layers of different age: evaluate it every `phi` rounds.
    Saves little under the strict rule where one layer holds most of the parameters. `cohort` and the
    rest of `options` are those of `CycleAvg`.
    """

    def __init__(
        self,
        *,
        phi: int = 2,
        rule: Rule = "inclusive",
        discrepancy_ema: float = 0.0,
        first_cycle_rounds: int = 0,
        keep_optimizer: bool = False,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        at_least("phi", phi, 1)
        at_least("first_cycle_rounds", first_cycle_rounds, 0)
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        if not 0 <= discrepancy_ema < 1:
            raise ConfigError(f"discrepancy_ema is {discrepancy_ema}, expected a weight in [0, 1)")
        super().__init__(
            rounds_per_cycle=phi,
            keep_optimizer=keep_optimizer,
            **options,
        )
        self.phi = phi
        self.rule = rule
        self.discrepancy_ema = discrepancy_ema
        self.first_cycle_rounds = first_cycle_rounds or phi
        # By layer in the model's order: d_l, NaN before it was measured, and rounds between averages.
        self._discrepancies: NDArray = np.empty(0)
        self._intervals: NDArray = np.empty(0, np.int64)

    @property
    def discrepancies(self) -> dict[str, float]:
        """The unit discrepancy `d_l` of each layer when it was last averaged; NaN before that."""
        return dict(zip(group_layers(self.model), self._discrepancies.tolist(), strict=False))

    @property
    def intervals(self) -> dict[str, int]:
        """Rounds between averages of each layer in the cycle under way."""
        return dict(zip(group_layers(self.model), self._intervals.tolist(), strict=False))

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info(
            "layers are averaged every round or every %d; %s rule, discrepancy EMA %g",
            *(self.phi, self.rule, self.discrepancy_ema),
        )

    def begin_cycle(self) -> None:
        """Set the intervals from the discrepancies."""
        sizes = layer_sizes(self.model)
        if len(self._discrepancies) != len(sizes):
            self._discrepancies = np.full(len(sizes), math.nan)
        relaxed: frozenset[str] = frozenset()
        if self._measured:
            relaxed = relaxed_layers(self.discrepancies, sizes, self.rule)
        self.rounds_per_cycle = self.phi if self._measured else self.first_cycle_rounds
        self._intervals = np.array([self.phi if layer in relaxed else 1 for layer in sizes], np.int64)

    def due(self, cycle_round: int) -> tuple[str, ...]:
        """The arrays of the layers with the base interval; all in the last round of a cycle."""
        if cycle_round == self.rounds_per_cycle - 1:
            return tuple(self.model)
        layers = group_layers(self.model)
        keys = {key for layer, every in self.intervals.items() if every == 1 for key in layers[layer]}
        return tuple(key for key in self.model if key in keys)

    def summing(self, layout: Layout) -> SpreadSum:
        """Sums that also measure how far the clients lie apart."""
        return SpreadSum(layout, self.weighted_by)

    def absorb(self, server_round: int, total: Total, layout: Layout) -> dict[str, NDArray]:
        """The means; notes the discrepancies of the layers that were due."""
        assert isinstance(total, SpreadTotal)
        measured = unit_discrepancies(total, layer_sizes(self.model), self.intervals)
        for index, layer in enumerate(group_layers(self.model)):
            if layer in measured:
                before, weight = self._discrepancies[index], self.discrepancy_ema
                smoothed = weight * before + (1 - weight) * measured[layer]
                self._discrepancies[index] = measured[layer] if math.isnan(before) else smoothed
        return super().absorb(server_round, total, layout)

    @property
    def _measured(self) -> bool:
        """Whether every layer's discrepancy is known."""
        return not np.isnan(self._discrepancies).any()

    def model_replaced(self) -> None:
        """Forget the discrepancies, too: the next cycle averages and measures every layer."""
        super().model_replaced()
        self._discrepancies, self._intervals = np.empty(0), np.empty(0, np.int64)

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold beside the model to go on."""
        state = super().state()
        if state:
            told = {"discrepancies": self._discrepancies.copy(), "intervals": self._intervals}
            state |= told | {"rounds-per-cycle": np.array(self.rounds_per_cycle, np.int64)}
        return state

    def take_up(self, state: Mapping[str, NDArray]) -> None:
        """Set what `state` gave. Raises KeyError or ValueError where it is another strategy's."""
        super().take_up(state)
        self._discrepancies = np.array(state["discrepancies"], np.float64)
        self._intervals = np.array(state["intervals"], np.int64)
        self.rounds_per_cycle = int(state["rounds-per-cycle"])


def layer_sizes(arrays: ArrayRecord) -> dict[str, int]:
    """Floating-point parameters and buffers in each layer of the model; counts of batches are none."""
    sizes = {key: v.size if v.dtype.kind == "f" else 0 for key, v in decode_record(arrays).items()}
    return {layer: sum(sizes[key] for key in keys) for layer, keys in group_layers(arrays).items()}


def unit_discrepancies(
    total: SpreadTotal, sizes: Mapping[str, int], intervals: Mapping[str, int]
) -> dict[str, float]:
    """`d_l = sum_i p_i ||u_l - x_l^i||^2 / (tau_l dim_l)` of the layers in the total, in float64.

    `p_i` are the weights over their sum, `u_l` is the replies' mean, `tau_l` the layer's interval in
    rounds (the base interval is a common factor, which no rule sees). 0 for a layer without floats.
    """
    return {
        layer: sum(total.spreads.get(key, 0.0) for key in keys)
        / (total.weight * intervals[layer] * max(sizes[layer], 1))
        for layer, keys in group_layers(total.sums).items()
    }
