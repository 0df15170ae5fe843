"""Labels for estimators that learn: updates that came late, and such as are held to be missing."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedeff.strategies.missing.basis import BASIS, grams
from fedeff.strategies.missing.features import features_of
from fedeff.strategies.missing.history import Past, Situation, without

__all__ = ["TOGETHER", "Case", "Erasures", "Labels", "labels_of", "late_labels"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]

Case = tuple[int, Past, Past]  # a node, its stale update, and its true one

TOGETHER = 8  # clients of one group of labels


@dataclass(frozen=True, eq=False)
class Labels:
    """True updates of some clients in one round, known by inner products alone, whatever the model's size.

    `gram` is (layers, clients * (basis + 1), clients * (basis + 1)): each client's basis and then its true
    update, client after client.
    """

    nodes: tuple[int, ...]
    weights: NDArray  # (clients,), examples
    features: NDArray  # (clients, layers, features)
    gram: NDArray

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def basis(self) -> int:
        """Vectors in each client's basis."""
        return int(self.gram.shape[1]) // len(self.nodes) - 1

    def blocks(self) -> NDArray:
        """Each client's own Gram matrices, (clients, layers, basis + 1, basis + 1)."""
        size = self.basis + 1
        starts = range(0, len(self.nodes) * size, size)
        return np.stack([self.gram[:, a : a + size, a : a + size] for a in starts])

    def errors(self, coefficients: NDArray) -> tuple[NDArray, NDArray]:
        """Squared distance of estimate and truth, and the truth's squared norm: (clients, layers) each.

        `coefficients` are (clients, layers, basis).
        """
        own = self.blocks()
        signed = np.concatenate([coefficients, -np.ones((*coefficients.shape[:2], 1))], axis=2)
        distances = np.einsum("clv,clvw,clw->cl", signed, own, signed)
        return np.maximum(distances, 0.0), own[:, :, -1, -1]


def late_labels(situation: Situation) -> Iterator[Labels]:
    """Labels from the updates that came late, against what was known in the rounds of asking."""
    cases: dict[int, list[Case]] = {}
    for node, late in situation.late.items():
        stale = situation.stale_of_late.get(node)
        if stale is not None and late.server_round in situation.history.means:
            cases.setdefault(late.server_round, []).append((node, stale, late))
    for server_round, group in cases.items():
        mean = situation.history.means[server_round]
        model = situation.history.models[server_round]
        asked = replace(situation, server_round=server_round, model=model, mean=mean)
        for start in range(0, len(group), TOGETHER):
            yield labels_of(asked, group[start : start + TOGETHER])


def labels_of(situation: Situation, cases: Sequence[Case]) -> Labels:
    """The labels of clients whose stale update and true one are given."""
    vectors = [v for _, stale, truth in cases for v in (*situation.basis(stale), truth.update)]
    gram, size = grams(vectors, situation.layers), len(BASIS) + 1
    features = []
    for place, (_, stale, _) in enumerate(cases):
        known = slice(place * size, (place + 1) * size - 1)
        features.append(features_of(gram[:, known, known], situation.staleness(stale)))
    nodes, weights = tuple(node for node, _, _ in cases), [truth.weight for _, _, truth in cases]
    return Labels(nodes, np.array(weights), np.stack(features), gram)


class Erasures:
    """Clients that replied, held to be missing: in each round a draw of them, as stale as the missing are.

    What a drawn client sent is kept beside its last update until it is as old as the updates of those that
    are missing; when the client replies again, that is a label. Where not enough are ripe, last updates
    serve. The round's mean is taken without all that are erased. Memory: at most one more update for each
    client, `drawn` more a round.
    """

    def __init__(self, drawn: int = TOGETHER) -> None:
        self._drawn = drawn
        self._held: dict[int, tuple[int, Past]] = {}  # by node, with the round from which on it is ripe

    def labels(self, situation: Situation, rng: np.random.Generator) -> Labels | None:
        """The labels of a round; None where there are none."""
        pasts = self._ripe(situation, rng)
        others = (situation.came.keys() & situation.history.latest.keys()) - pasts.keys()
        for node in _draw(others, self._drawn - len(pasts), rng):
            pasts[node] = situation.history.latest[node]
        rest = without(situation.mean, [situation.came[node] for node in pasts])
        if not pasts or rest is None:
            return None
        erased = replace(situation, mean=rest)
        return labels_of(erased, [(node, past, situation.came[node]) for node, past in pasts.items()])

    def hold(self, situation: Situation, rng: np.random.Generator) -> None:
        """Keep what some clients sent in this round until it is as old as an update of a missing client."""
        ages = [age for age in situation.ages if age > 1]  # last updates serve for the others
        if not ages:
            return
        for node in _draw(situation.came.keys() - self._held.keys(), self._drawn, rng):
            ripe = situation.server_round + ages[int(rng.integers(len(ages)))]
            self._held[node] = ripe, situation.came[node]

    def forget(self, first_round: int) -> None:
        """Drop what is from before this round."""
        self._held = {n: held for n, held in self._held.items() if held[1].server_round >= first_round}

    def needed_rounds(self) -> set[int]:
        """Rounds whose means the held updates need."""
        return {past.server_round for _, past in self._held.values()}

    def _ripe(self, situation: Situation, rng: np.random.Generator) -> dict[int, Past]:
        """Take out those that are ripe and whose client came, as many as are drawn."""
        ripe = {
            n for n, (due, _) in self._held.items() if n in situation.came and situation.server_round >= due
        }
        return {node: self._held.pop(node)[1] for node in _draw(ripe, self._drawn, rng)}


def _draw(nodes: Collection[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many of the nodes, or all where they are fewer."""
    held = sorted(nodes)
    return [held[place] for place in sorted(rng.permutation(len(held))[: max(count, 0)].tolist())]
