"""A decoder of missing updates that learns, in the space of Gram matrices, how to combine what is known."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.strategies.missing.basis import BASIS, DRIFT_CORRECTED, combined, grams
from fedeff.strategies.missing.features import feature_count, features_of
from fedeff.strategies.missing.flat import Vector
from fedeff.strategies.missing.gate import Gate, Judgement
from fedeff.strategies.missing.gram_loss import gram_loss
from fedeff.strategies.missing.history import Situation
from fedeff.strategies.missing.labels import Erasures, Labels, late_labels
from fedeff.strategies.missing.mlp import Adam, Mlp, Parameters

__all__ = ["GramDecoder"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]

_FOLDS = 2
_FADING = 0.9  # weight of a judgement a round older


@dataclass(frozen=True, eq=False)
class _Known:
    """Labels as the decoder keeps them."""

    labels: Labels
    server_round: int  # in which they came to be known
    fold: int  # of the network that learns from them; the others judge
    late: bool  # whether they are of clients that were missing, not held to be


class GramDecoder:
    """Estimates `sum_j alpha_j b_j` layer by layer, `alpha = (1, 1, -1, 0) + MLP(features)`.

    The basis b is the mean now, the client's stale update, the mean then, and how far the model has come
    since; `(1, 1, -1, 0)` is the drift-corrected update, where the decoder begins. It learns on the server,
    from clients that replied and are held to be missing and from updates that come late, by a loss that
    needs inner products alone: a step costs the same for any model.

    There are two networks, each of which learns from half of the labels, and alpha is their mean. So each
    judges the other on what that one never saw: a gate keeps a client's drift-corrected update unless the
    decoder was nearer to the truth of the client's late updates.

    Worth it where slow clients own what nobody else does and updates grow old; elsewhere it does what
    `Drift` does. It sees every client's own update, so it cannot run under secure aggregation.
    """

    def __init__(
        self,
        *,
        hidden: int = 32,
        learning_rate: float = 3e-3,
        steps: int = 40,
        batch: int = 32,
        buffer: int = 1500,
        seed: int = 0,
    ) -> None:
        for name, value in {"hidden": hidden, "steps": steps, "batch": batch, "buffer": buffer}.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more")
        self._hidden, self._learning_rate, self._seed = hidden, learning_rate, seed
        self._steps, self._batch, self._buffer = steps, batch, buffer  # a round; labels, of one layer each
        self._networks: list[Mlp] = []
        self._adams: list[Adam] = []
        self._known: deque[_Known] = deque()
        self._count = 0  # groups of labels so far
        self._erasures = Erasures()
        self._gate = Gate()
        self.trusted: tuple[int, ...] = ()  # nodes whose last estimate was the decoder's own

    def learn(self, situation: Situation) -> None:
        """Take the round's labels, learn from them, and judge what was learned."""
        layers = len(situation.layers.slices)
        self._make(layers)
        rng = generator(self._seed, purpose="decoder", round=situation.server_round)
        for labels in late_labels(situation):
            self._keep(labels, situation.server_round, late=True)
        if (erased := self._erasures.labels(situation, rng)) is not None:
            self._keep(erased, situation.server_round, late=False)
        while sum(len(one.labels) for one in self._known) * layers > self._buffer:
            self._known.popleft()
        self._erasures.hold(situation, rng)
        self._erasures.forget(situation.server_round - situation.history.horizon)
        for fold in range(_FOLDS):
            own = [one.labels for one in self._known if one.fold == fold]
            for _ in range(self._steps if own else 0):
                self._step(fold, own, max(1, self._batch // layers), rng)
        self._gate = Gate(self._judgements(situation.server_round))

    def estimate(self, situation: Situation) -> dict[int, Vector]:
        """An update for each missing client: the decoder's where the gate trusts it, else drift-corrected."""
        estimates, trusted = {}, []
        for node in situation.missing:
            stale = situation.history.latest[node]
            vectors = situation.basis(stale)
            coefficients = np.tile(DRIFT_CORRECTED, (len(situation.layers.slices), 1))
            if self._gate.trusts(node):
                trusted.append(node)
                gram = grams(vectors, situation.layers)
                coefficients = self.coefficients(features_of(gram, situation.staleness(stale)))
            estimates[node] = combined(coefficients, vectors, situation.layers)
        self.trusted = tuple(trusted)
        return estimates

    def needed_rounds(self) -> set[int]:
        """Rounds of held updates."""
        return self._erasures.needed_rounds()

    def coefficients(self, features: NDArray) -> NDArray:
        """Alpha, (..., layers, basis), of features (..., layers, features)."""
        self._make(features.shape[-2])
        answers = [network(features) for network in self._networks]
        return np.asarray(DRIFT_CORRECTED + sum(answers) / _FOLDS)

    def _make(self, layers: int) -> None:
        """Make the networks once the number of layers is known."""
        for fold in range(len(self._networks), _FOLDS):
            rng = generator(self._seed, purpose="decoder weights", client=fold)
            inputs = feature_count(layers, len(BASIS))
            self._networks.append(Mlp.initial(inputs, self._hidden, len(BASIS), rng))
            self._adams.append(Adam(self._learning_rate))

    def _keep(self, labels: Labels, server_round: int, *, late: bool) -> None:
        self._known.append(_Known(labels, server_round, self._count % _FOLDS, late))
        self._count += 1

    def _step(self, fold: int, own: list[Labels], clients: int, rng: np.random.Generator) -> None:
        """One step of a network on groups of labels drawn from its own, of so many clients together."""
        network, taken, slopes = self._networks[fold], 0, []
        for place in rng.permutation(len(own)):
            labels = own[place]
            _, slope = gram_loss(DRIFT_CORRECTED + network(labels.features), labels)
            slopes.append(network.gradient(labels.features, slope))
            taken += len(labels)
            if taken >= clients:
                break
        self._adams[fold].step(network.parameters, _mean(slopes))

    def _judgements(self, server_round: int) -> Iterator[Judgement]:
        """How the networks do on late labels that they have not learned from, and how drift does."""
        for one in self._known:
            if not one.late:
                continue
            labels, judge = one.labels, self._networks[1 - one.fold]
            ours, norms = labels.errors(DRIFT_CORRECTED + judge(labels.features))
            drift, _ = labels.errors(np.broadcast_to(DRIFT_CORRECTED, (*norms.shape, len(BASIS))))
            whole = np.maximum(norms.sum(axis=1), 1e-30)
            weight = _FADING ** (server_round - one.server_round)
            for node, mine, theirs in zip(
                labels.nodes, ours.sum(axis=1) / whole, drift.sum(axis=1) / whole, strict=True
            ):
                yield Judgement(node, weight, float(mine), float(theirs))


def _mean(gradients: list[Parameters]) -> Parameters:
    return {name: np.mean([one[name] for one in gradients], axis=0) for name in gradients[0]}
