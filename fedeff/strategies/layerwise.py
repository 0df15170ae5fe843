"""Layer-wise averaging on a fixed schedule: large layers travel up less often.

The idea, averaging each layer at its own interval, is that of FedLAMA (Lee et al.,
arXiv:2110.10302); the schedule here is fixed by size alone, where FedLAMA adapts it to how far the
clients' layers have drifted apart.
"""

import logging
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.layers import group_layers, merge, payload_bytes, subset
from fedeff.strategies.fedavg import FedAvg, FoldPlace

__all__ = ["LayerwiseAvg", "due_layers", "intervals_by_size", "largest_layers", "layer_bytes"]

_log = logging.getLogger(__name__)


class LayerwiseAvg(FedAvg):
    """FedAvg in which each layer goes up only every so many rounds.

    `intervals` gives the rounds between uploads by layer name, 1 for layers it does not name.
    Without it, the largest layers that together hold at least `large_share` of the model's bytes
    have `layer_interval` and all others 1. The first round sends every layer. A layer that is not due
    keeps its value on the server: what the cohort learned in it in that round is lost, which
    costs rounds, least where one large layer learns little that is new. Clients must honour
    `config["layers-due"]`, a list of array keys; replies of those that do not are refused.

    `cohort` and the rest of `options` are those of `FedAvg`.
    """

    def __init__(
        self,
        *,
        layer_interval: int = 2,
        large_share: float = 0.5,
        intervals: Mapping[str, int] | None = None,
        fold: FoldPlace = "server",
        cohort: int | None = None,
        evaluate_clients: int | None = 0,
        seed: int = 0,
        weighted_by: str = "num-examples",
        train_config: Mapping[str, Any] | None = None,
        min_available_nodes: int = 1,
        wait_for_nodes_s: float = 10.0,
    ) -> None:
        super().__init__(
            cohort=cohort,
            evaluate_clients=evaluate_clients,
            fold=fold,
            seed=seed,
            weighted_by=weighted_by,
            train_config=train_config,
            min_available_nodes=min_available_nodes,
            wait_for_nodes_s=wait_for_nodes_s,
        )
        for layer, interval in {"layer_interval": layer_interval, **(intervals or {})}.items():
            if interval < 1:
                raise ConfigError(f"interval {interval} of {layer}: expected 1 (every round) or more")
        if not 0 < large_share <= 1:
            raise ConfigError(f"large_share is {large_share}, expected a share of the bytes in (0, 1]")
        self.layer_interval = layer_interval
        self.large_share = large_share
        self.intervals = None if intervals is None else dict(intervals)

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info("layers go up every so many rounds: %s", self.intervals or self._rule())

    def layer_intervals(self, arrays: ArrayRecord) -> dict[str, int]:
        """Rounds between uploads of each layer of this model.

        Raises:
            ConfigError: if `intervals` names a layer that the model has not, or no layer is due in
                every round, so that some rounds would train for nothing.
        """
        sizes = layer_bytes(arrays)
        if self.intervals is None:
            return intervals_by_size(sizes, self.layer_interval, self.large_share)
        for layer in self.intervals:
            if layer not in sizes:
                raise unknown_name("layer", layer, sizes)
        intervals = {layer: self.intervals.get(layer, 1) for layer in sizes}
        if 1 not in intervals.values():
            raise ConfigError("no layer has interval 1, so some rounds would send nothing; give one layer 1")
        return intervals

    def due_keys(self, server_round: int, arrays: ArrayRecord) -> tuple[str, ...]:
        """The arrays of the layers that are due in this round, in the model's order."""
        due = due_layers(self.layer_intervals(arrays), server_round)
        layers = group_layers(arrays)
        keys = {key for layer in due for key in layers[layer]}
        return tuple(key for key in arrays if key in keys)

    def merged(self, model: ArrayRecord, means: ArrayRecord) -> ArrayRecord:
        """The model with the means in place of the layers that were due."""
        return merge(model, means)

    def _rule(self) -> str:
        return (
            f"{self.layer_interval} for the largest layers with {self.large_share:.0%} of the bytes, else 1"
        )


def layer_bytes(arrays: ArrayRecord) -> dict[str, int]:
    """Bytes of each layer of the model, in its order."""
    return {layer: payload_bytes(subset(arrays, keys)) for layer, keys in group_layers(arrays).items()}


def largest_layers(sizes: Mapping[str, int], share: float) -> frozenset[str]:
    """The fewest layers that together hold at least `share` of the bytes; ties go to earlier layers.

    >>> sorted(largest_layers({"conv": 20, "fc1": 70, "fc2": 10}, 0.5))
    ['fc1']
    """
    wanted, held = share * sum(sizes.values()), 0
    chosen: set[str] = set()
    for layer in sorted(sizes, key=lambda layer: -sizes[layer]):
        if held >= wanted:
            break
        chosen.add(layer)
        held += sizes[layer]
    return frozenset(chosen)


def intervals_by_size(sizes: Mapping[str, int], interval: int, share: float) -> dict[str, int]:
    """`interval` for the largest layers and 1 for the others; 1 for all where none would be left."""
    large = largest_layers(sizes, share)
    if len(large) == len(sizes):
        return dict.fromkeys(sizes, 1)
    return {layer: interval if layer in large else 1 for layer in sizes}


def due_layers(intervals: Mapping[str, int], server_round: int) -> tuple[str, ...]:
    """The layers that go up in a round; rounds count from 1, and the first sends all."""
    return tuple(layer for layer, interval in intervals.items() if (server_round - 1) % interval == 0)
