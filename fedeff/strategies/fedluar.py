"""FedLUAR: layers that change little are not sent, their last update is used again.

Kim, Kang and Lee, "Layer-wise Update Aggregation with Recycling for Communication-Efficient Federated
Learning", NeurIPS 2025, arXiv:2503.11146, algorithms 1 and 2.
"""

import logging
import statistics
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord

from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.layers import decode_record, encode_record, group_layers, merge
from fedeff.core.rng import generator
from fedeff.strategies.fedavg import FedAvg, FedAvgOptions, at_least

__all__ = ["FedLUAR", "change_of", "draw_recycled", "least_score", "recyclable_layers", "relative_change"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_log = logging.getLogger(__name__)
_UPDATE, _SCORE = "update/", "score/"


class FedLUAR(FedAvg):
    """FedAvg in which some layers of each round repeat their last update instead of being sent.

    A layer's score is `s_l = ||Delta_l|| / ||x_l||` (eq. 1), its last averaged update against its weights
    before it. `recycled_layers` layers are drawn with probability proportional to `1/s_l`, without
    replacement; clients leave them out of their replies (`layers-due`) and the server adds the layer's last
    update to it once more. A recycled layer keeps its score and its update until it is sent again. None
    recycles half of the layers that may be. Scores count for a tenth of their median at least: the paper's
    rule has no chance for a layer that once did not move, since its score, 0, is never measured again.

    As in the authors' code only layers with an array of two or more axes may be recycled; norm layers
    and other vectors, a few bytes, always go up. Unlike there, a layer's bias goes with its
    weights. Until every such layer has an update, all are sent: the first round is FedAvg's. With
    `recycled_layers=0` every round is, bit for bit.

    Saves uplink only, the model still goes down whole. Where no reply of a round was valid nothing is
    recycled either, the model stays. `cohort` and the rest of `options` are those of `FedAvg`.
    """

    def __init__(
        self,
        *,
        recycled_layers: int | None = None,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(
            **options,
        )
        at_least("recycled_layers", recycled_layers, 0)
        self.recycled_layers = recycled_layers
        self._updates: dict[str, NDArray] = {}  # by array key, in the arrays' dtypes
        self._scores: dict[str, float] = {}  # by layer

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info("layers recycled: %s", "half" if self.recycled_layers is None else self.recycled_layers)

    def due_keys(self, server_round: int, arrays: ArrayRecord) -> tuple[str, ...]:
        """The arrays of the layers that are not recycled in this round, in the model's order.

        Raises:
            ConfigError: if `recycled_layers` would leave no layer that may be recycled to be sent.
        """
        layers = group_layers(arrays)
        recycled = self._drawn(server_round, recyclable_layers(decode_record(arrays)))
        left_out = {key for layer in recycled for key in layers[layer]}
        return tuple(key for key in arrays if key not in left_out)

    def merged(self, model: ArrayRecord, means: ArrayRecord) -> ArrayRecord:
        """The means of the layers that were sent, and the others moved by their last update."""
        before, sent = decode_record(model), decode_record(means)
        layers = group_layers(before)
        for layer in recyclable_layers(before):
            keys = layers[layer]
            if keys[0] in sent:
                self._updates.update({key: change_of(before[key], sent[key]) for key in keys})
                self._scores[layer] = relative_change(self._updates, before, keys)
        recycled = [key for key in before if key not in sent]
        moved = {key: np.asarray(before[key] + self._updates[key]) for key in recycled}
        return merge(merge(model, means), encode_record(moved))

    def model_replaced(self) -> None:
        """Forget updates and scores: the next round sends every layer."""
        self._updates, self._scores = {}, {}

    def state(self) -> dict[str, np.ndarray]:
        """The last update of each array and the score of each layer."""
        updates = {f"{_UPDATE}{key}": update for key, update in self._updates.items()}
        scores = {f"{_SCORE}{layer}": np.array(score) for layer, score in self._scores.items()}
        return {**updates, **scores}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if the state is another strategy's.
        """
        if foreign := sorted(name for name in state if not name.startswith((_UPDATE, _SCORE))):
            raise ResumeError(
                f"a checkpoint holds strategy state {foreign}, FedLUAR keeps updates and scores; "
                "resume with the strategy that the run was started with"
            )
        self._updates = _named(state, _UPDATE)
        self._scores = {layer: float(score) for layer, score in _named(state, _SCORE).items()}

    def _drawn(self, server_round: int, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The recycled layers of this round."""
        count = len(layers) // 2 if self.recycled_layers is None else self.recycled_layers
        if count and count >= len(layers):
            raise ConfigError(
                f"recycled_layers is {count}, but {len(layers)} layers of this model may be recycled and one "
                f"must be sent; choose at most {max(0, len(layers) - 1)}"
            )
        if not self._scores.keys() >= set(layers):
            return ()
        rng = generator(self.seed, purpose="recycled layers", round=server_round)
        return draw_recycled({layer: self._scores[layer] for layer in layers}, count, rng)


def recyclable_layers(arrays: Mapping[str, NDArray]) -> tuple[str, ...]:
    """The layers with at least one array of two or more axes, in the model's order.

    >>> recyclable_layers({"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2), "norm.weight": np.ones(2)})
    ('fc',)
    """
    return tuple(
        layer for layer, keys in group_layers(arrays).items() if any(arrays[key].ndim > 1 for key in keys)
    )


def relative_change(
    updates: Mapping[str, NDArray], before: Mapping[str, NDArray], keys: Collection[str]
) -> float:
    """`||Delta|| / ||x||` over the arrays of one layer taken together, in float64 (eq. 1).

    Only arrays of floats count. 0 for a layer that did not move, infinity for one that moved from zero.
    """
    reals = [key for key in keys if before[key].dtype.kind == "f"]
    moved, size = (
        np.sqrt(sum(float(np.sum(np.square(values[key], dtype=np.float64))) for key in reals))
        for values in (updates, before)
    )
    if moved == 0:
        return 0.0
    return float(moved / size) if size > 0 else float("inf")


def draw_recycled(scores: Mapping[str, float], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`count` layers, drawn one after another with probability proportional to `1/score`.

    Returned in the order of `scores`, which are raised to `least_score` first. A layer of infinite score
    is drawn after all others.
    """
    # The layer with the smallest Exp(1) / weight is a draw proportional to the weights, the next one a
    # draw from the rest (Efraimidis & Spirakis, 2006); as a product it needs no 1/0.
    raised = np.maximum(list(scores.values()), least_score(scores.values()))
    waits = rng.exponential(size=len(scores)) * raised
    first = set(np.argsort(waits, kind="stable")[:count].tolist())
    return tuple(layer for position, layer in enumerate(scores) if position in first)


def least_score(scores: Iterable[float]) -> float:
    """What a score counts for at least: a tenth of the median of those that are positive and finite.

    So however little a layer moved it may be sent again: about every 200th round where half of 20 layers
    are recycled and the others moved alike, far less often where most are. 1 where there is no such score.

    >>> least_score([0.0, 0.02, 0.03, 0.07, float("inf")])
    0.003
    """
    moved = [score for score in scores if 0 < score < float("inf")]
    return statistics.median(moved) / 10 if moved else 1.0


def change_of(before: NDArray, after: NDArray) -> NDArray:
    """`after - before` in their dtype; nothing for booleans, which have no difference."""
    if before.dtype.kind == "b":
        return np.zeros_like(before)
    return np.asarray(after - before)


def _named(state: Mapping[str, NDArray], prefix: str) -> dict[str, NDArray]:
    """The entries whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
