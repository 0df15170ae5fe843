"""Adaptive update frequency: a layer's gradients are gathered while they agree, and sent when they do not.

Lee et al., "Improving scalability of parallel CNN training by adaptively adjusting parameter update
frequency", Journal of Parallel and Distributed Computing, 2022, doi:10.1016/j.jpdc.2021.09.005.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from flwr.app import ConfigRecordValues, Message

from fedeff.core.errors import ConfigError, ReplyError
from fedeff.core.layers import decode, group_layers
from fedeff.strategies.cycles import CycleAvg
from fedeff.strategies.fedavg import FedAvgOptions, at_least
from fedeff.strategies.local_sgd import refuse_preset
from fedeff.strategies.weighted_sum import (
    ArraySpec,
    Layout,
    NDArray,
    Total,
    WeightedSum,
    asks_for_full,
    mean,
    metric_means,
    read_metrics,
    refusal_of,
)

__all__ = ["AdaptiveUpdateSGD", "GradientSum", "due_next", "stepped"]

_log = logging.getLogger(__name__)
_AGREEMENT, _VALUE, _GATHERED, _PROCEDURE = "agreement:", "value:", "gathered/", "procedure"


class AdaptiveUpdateSGD(CycleAvg):
    """Synchronous SGD in which each layer is sent, and steps, only when its gradients begin to differ.

    In every round each member of the cohort adds a mini-batch gradient (of `local-steps` batches) at the
    server's model to what it has gathered, and tells for each layer the cosine between the two. The
    server decides for all, from the weighted means of these scalars: a layer with cosine `theta` or more and
    fewer than `c_max` gradients gathered waits; else the members send the mean of what they gathered and
    begin anew, and the server takes a step `u_l -= learning_rate * mean`. `c_max=1` is synchronous
    SGD, the same as FedAvg with one local step of plain SGD to rounding (1e-6 for float32).

    The decision lags one round: what is sent in a round was decided from the cosines of the round before.
    So a layer whose gradients turn is sent one gradient late. Without the lag every step would take
    two exchanges, the scalars up and the verdict down before any layer could go up, and each
    exchange waits for the slowest client; what was gained in bytes would be paid in latency.

    The cohort stays together for `cycle_rounds` rounds, since what it has gathered is lost to other clients;
    the last round of a cycle sends every layer. Within a cycle only the layers that have stepped go down,
    and the parameters that `aggregate_train` returns are those that all members hold. Buffers such as
    running statistics have no gradient: they move on the clients in every round and are averaged, as by
    FedAvg, whenever their layer is sent. A member that lost its state gets the full model and gathers anew.
    A client that does not know `procedure: accumulate` is refused: its weights are no gradients.

    Steps on means of gathered gradients are no longer than on single ones, so where a layer is sent every
    fourth round it learns more slowly: raise the rate with `c_max`. `cohort` and the rest of `options` are
    those of `CycleAvg`.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 0.05,
        theta: float = 0.9,
        c_max: int = 4,
        cycle_rounds: int = 16,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        at_least("cycle_rounds", cycle_rounds, 1)
        super().__init__(
            rounds_per_cycle=cycle_rounds,
            **options,
        )
        refuse_preset(self.train_config, (_PROCEDURE,))
        at_least("c_max", c_max, 1)
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ConfigError(f"learning_rate is {learning_rate}, expected a positive number")
        if not -1 <= theta <= 1:
            raise ConfigError(f"theta is {theta}, expected a cosine, from -1 to 1")
        self.learning_rate = learning_rate
        self.theta = theta
        self.c_max = c_max
        self._gathered: dict[str, int] = {}  # gradients gathered by layer after the last round
        self._due: tuple[str, ...] = ()  # layers that are sent in the next round

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info(
            "layers are sent under cosine %g or after %d gradients, all every %d rounds, steps of %g",
            *(self.theta, self.c_max, self.rounds_per_cycle, self.learning_rate),
        )

    def begin_cycle(self) -> None:
        """Nothing is gathered."""
        self._decide(dict.fromkeys(group_layers(self.model), 1.0), dict.fromkeys(group_layers(self.model), 0))

    def due(self, cycle_round: int) -> tuple[str, ...]:
        """The arrays of the layers decided on; all in the last round of a cycle."""
        layers = group_layers(self.model)
        chosen = layers if cycle_round == self.rounds_per_cycle - 1 else self._due
        keys = {key for layer in chosen for key in layers[layer]}
        return tuple(key for key in self.model if key in keys)

    def round_config(self, cycle_round: int) -> dict[str, ConfigRecordValues]:
        """Clients gather gradients instead of training."""
        return {_PROCEDURE: "accumulate"}

    def summing(self, layout: Layout) -> WeightedSum:
        """Mean gradients, from replies that tell how every layer agrees."""
        return GradientSum(layout, self.weighted_by, tuple(group_layers(self.model)))

    def absorb(self, server_round: int, total: Total, layout: Layout) -> dict[str, NDArray]:
        """The due arrays after a step against their mean gradients; decides what is due next."""
        sent = set(group_layers(spec.key for spec in layout))
        told = metric_means(total)
        agreements = {layer: told[f"{_AGREEMENT}{layer}"] for layer in self._gathered}
        gathered = {layer: 0 if layer in sent else 1 + count for layer, count in self._gathered.items()}
        self._decide(agreements, gathered)
        return {spec.key: self._moved(spec, total) for spec in layout}

    def state(self) -> dict[str, NDArray]:
        """The cycle's, with what is gathered in each layer and whether it is due next."""
        gathered = {
            f"{_GATHERED}{layer}": np.array([count, layer in self._due])
            for layer, count in self._gathered.items()
        }
        return {**super().state(), **gathered}

    def take_up(self, state: Mapping[str, NDArray]) -> None:
        """Set what `state` gave. Raises KeyError or ValueError where it is another strategy's."""
        super().take_up(state)
        layers = {
            name.removeprefix(_GATHERED): values.tolist()
            for name, values in state.items()
            if name.startswith(_GATHERED)
        }
        self._gathered = {layer: int(count) for layer, (count, _) in layers.items()}
        self._due = tuple(layer for layer, (_, due) in layers.items() if due)

    def _moved(self, spec: ArraySpec, total: Total) -> NDArray:
        """An array that was due, after the step or the mean."""
        held, told = decode(self.model[spec.key]), total.metrics.get(f"{_VALUE}{spec.key}")
        if told is None:
            return stepped(held, total.sums[spec.key] / total.weight, self.learning_rate)
        # Clients that do not say so have sent zeros: a mean with theirs is nobody's value.
        return mean(total, (spec,))[spec.key] if told == (total.weight, total.weight) else held

    def _decide(self, agreements: Mapping[str, float], gathered: dict[str, int]) -> None:
        self._gathered = gathered
        self._due = due_next(agreements, gathered, theta=self.theta, c_max=self.c_max)


@dataclass(frozen=True)
class GradientSum(WeightedSum):
    """Sums replies that tell, for each of the `layers`, how its gradients agree; others are refused."""

    layers: tuple[str, ...] = ()

    def add(self, total: Total | None, reply: Message) -> Total:
        """The total with one reply added, in place; None starts a new total."""
        total = self.empty() if total is None else total
        if not asks_for_full(reply):
            try:
                self._check(reply)
            except ReplyError as refusal:
                total.refused.append(refusal_of(reply, str(refusal)))
                return total
        return super().add(total, reply)

    def _check(self, reply: Message) -> None:
        _, metrics = read_metrics(reply, self.weighted_by)
        for layer in self.layers:
            value = metrics.get(f"{_AGREEMENT}{layer}", math.nan)
            if not -1.001 <= value <= 1.001:  # a cosine, but for rounding
                raise ReplyError(
                    f"metric '{_AGREEMENT}{layer}' is {value}, expected a cosine from a client that "
                    "knows procedure 'accumulate'"
                )


def due_next(
    agreements: Mapping[str, float], gathered: Mapping[str, int], *, theta: float, c_max: int
) -> tuple[str, ...]:
    """The layers to send in the next round, in the order of `gathered`.

    `agreements` are the cosines of the round that is over, `gathered` how many gradients its members
    still hold after it; with the next one that makes one more, and `c_max` are sent at the latest.

    >>> due_next({"a": 0.95, "b": 0.95, "c": 0.3}, {"a": 2, "b": 3, "c": 1}, theta=0.9, c_max=4)
    ('b', 'c')
    """
    return tuple(
        layer for layer, count in gathered.items() if agreements[layer] < theta or count + 1 >= c_max
    )


def stepped(values: NDArray, gradient: NDArray, learning_rate: float) -> NDArray:
    """`values - learning_rate * gradient` in float64, in the dtype of `values`; integers stay as they are."""
    if values.dtype.kind != "f":
        return values
    moved = values - learning_rate * np.asarray(gradient, np.float64)
    return np.asarray(moved).astype(values.dtype)
