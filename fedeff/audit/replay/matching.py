"""What candidate inputs would have made a client send, and how far that is from what came.

The attacks that optimise share this: the exchange is replayed in float64, differentiable in the inputs,
through as many local steps as the client took.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.audit.replay.forward import first_embedding, forward
from fedeff.audit.replay.targets import Bounds, Scale, Target, targets_of
from fedeff.audit.view import Exchange, ServerView
from fedeff.clients import LocalTraining
from fedeff.clients.dp_sgd import DpSgd
from fedeff.clients.loop import has_dropout
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError

__all__ = ["Matching", "obstacle_to_replay", "replayed_rows"]

Weights = dict[str, Tensor]


def obstacle_to_replay(view: ServerView) -> str | None:
    """Why the client's steps cannot be replayed, in one line; None where they can."""
    for exchange in view.exchanges if view.same_rows else view.exchanges[:1]:
        if obstacle := _obstacle(exchange, view):
            return obstacle
    if has_dropout(view.public.network()):
        return "the model draws dropout masks, which are not known; attack a model without dropout"
    if len({replayed_rows(exchange, view) for exchange in _matched(view)}) > 1:
        return "the exchanges differ in rows; show exchanges on the same rows"
    return None


def _obstacle(exchange: Exchange, view: ServerView) -> str | None:
    training, asked = exchange.training, []
    if exchange.kind == "change" and training.optimizer not in ("sgd", "momentum"):
        asked.append(f"optimizer {training.optimizer!r}")
    asked += [f"perturbation {training.perturbation!r}"] if training.perturbation != "none" else []
    if training.optimizer == "momentum" and exchange.goes_on:
        asked += ["momentum of earlier rounds"]
    asked += ["autocast"] if training.autocast else []
    asked += ["a penalty"] if training.penalty is not None else []
    asked += ["an objective of its own"] if training.objective is not None else []
    if asked:
        return f"{asked[0]} cannot be replayed; use sgd or momentum on the plain cross-entropy"
    if not _given_rows(exchange, view):
        return "the client does not say how many rows it has; give their labels, or a view that says it"
    return None


def _matched(view: ServerView) -> tuple[Exchange, ...]:
    """The exchanges that tell of the same rows: all, or the first alone."""
    return view.exchanges if view.same_rows else view.exchanges[:1]


def _one_step(exchange: Exchange, rows: int) -> bool:
    """Whether a client takes one step, on so many rows."""
    training = exchange.training
    once = training.steps == 1 or (not training.steps and training.epochs == 1)
    return exchange.kind == "gradient" or (once and rows <= training.batch_size)


def _given_rows(exchange: Exchange, view: ServerView) -> int:
    if exchange.examples or view.labels is None:
        return exchange.examples
    return len(view.labels)


def replayed_rows(exchange: Exchange, view: ServerView) -> int:
    """How many rows left a trace in an exchange: those that a step saw, of each client."""
    return _counted(exchange, view).rows


def _counted(exchange: Exchange, view: ServerView) -> Exchange:
    return replace(exchange, examples=_given_rows(exchange, view))


@dataclass(frozen=True, eq=False)
class _Cohort:
    """How many rows of each client of an exchange left a trace, and its share in the mean."""

    rows: tuple[int, ...]
    shares: tuple[float, ...]

    @staticmethod
    def of(exchange: Exchange) -> "_Cohort":
        """As the exchange says, whose number of examples has to be known; clients without rows left out."""
        counted = [1 if exchange.alike else size for size in exchange.sizes]
        rows = tuple(seen for seen in exchange.seen if seen)
        return _Cohort(rows, tuple(count / sum(counted) for count in counted[: len(rows)]))

    @property
    def each(self) -> Tensor:
        """What each row's gradient counts where every client takes one step on its rows, (rows,)."""
        rows, shares = torch.tensor(self.rows), torch.tensor(self.shares, dtype=torch.float64)
        return (shares / rows).repeat_interleave(rows)


class Matching:
    """Replays of a view's exchanges by candidate rows, and their distance to what came.

    With `scale` "layer" each array's error is divided by the norm of what came of it, with "noise" each
    entry's by the standard deviation that it is told to have and a float32's rounding, with "none" by
    nothing. `smoothing` above 0 stands in a softplus of that width for each rectifier, and as smooth a
    maximum for pooling by the largest. `bounds` says how what is not known but bounded counts, see
    `targets_of`.

    Rows are cut into batches in their order, the same in every pass and every exchange: where a client took
    several steps on parts of its rows in another order, the replay is an approximation. Rows of a sum are
    first cut into those of its clients, who are taken to be as equal in size as can be, the larger ones
    first: nobody is told more. Several exchanges that are not on the same rows are matched in the first
    alone. Clipping, of a client's change or of each row's gradient, is replayed; arrays that are stale are
    left out.

    Inputs `x` are (rows, *shape) float64; for text int64 tokens, or, where float, what the first
    nn.Embedding of the network makes of them, (rows, length, width): then the array of that embedding is
    left out of everything. Labels `y` are int64 (rows,) or (rows, length), or probabilities with one more
    axis. Everything is differentiable in both, also by torch.func under vmap.

    Raises AuditError for what cannot be replayed: other optimizers than sgd and momentum, dropout, other
    objectives than the cross-entropy, clients that do not say how many rows they have.
    """

    def __init__(
        self, view: ServerView, *, scale: Scale = "layer", smoothing: float = 0.0, bounds: Bounds = "beyond"
    ) -> None:
        if obstacle := obstacle_to_replay(view):
            raise AuditError(obstacle)
        self._exchanges, self._smoothing = _matched(view), smoothing
        self.rows = replayed_rows(self._exchanges[0], view)
        self._cohorts = [_Cohort.of(_counted(exchange, view)) for exchange in self._exchanges]
        self.shape = view.public.input_shape
        self._network = view.public.network().double().train()
        found = first_embedding(self._network)
        self._embedding_key = None if found is None else found[0]
        self._weights = [_own_weights(self._network, exchange) for exchange in self._exchanges]
        self._normalises_batches = _stop_counting(self._network)
        self._targets = [
            targets_of(exchange, own, scale, bounds=bounds)
            for exchange, own in zip(self._exchanges, self._weights, strict=True)
        ]
        if not any(self._targets):
            raise AuditError("nothing is known of any weight; there is nothing to match")

    @property
    def embedding(self) -> Tensor | None:
        """The weight (tokens, width) of the first nn.Embedding as the first exchange began; None without."""
        return None if self._embedding_key is None else self._weights[0][self._embedding_key]

    def simulated(self, x: Tensor, y: Tensor) -> list[Weights]:
        """What these rows would have told in each exchange: whole arrays by key, float64."""
        return self._simulated(x, y, slice(None))

    def _simulated(self, x: Tensor, y: Tensor, these: slice) -> list[Weights]:
        """What came, were there but these of all rows; others than all only where rows are separable."""
        return [
            self._told(*exchange, x, y, these)
            for exchange in zip(self._exchanges, self._weights, self._cohorts, strict=True)
        ]

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """Simulated less told, (m,) over what is known or bounded, each divided as `scale` says.

        Of a bounded entry what is beyond the bound.
        """
        return torch.cat([one.errors(own) / one.divisors for own, one in self._pairs(x, y)])

    @property
    def separable(self) -> bool:
        """Whether each row adds to the residual by itself: one step, and no batch is normalised."""
        return all(
            self._adds_up(exchange, cohort) and not exchange.clipping_norm
            for exchange, cohort in zip(self._exchanges, self._cohorts, strict=True)
        )

    def _adds_up(self, exchange: Exchange, cohort: _Cohort) -> bool:
        """Whether the mean over the clients, before clipping, is of one step on all rows, as each counts."""
        return not self._normalises_batches and all(_one_step(exchange, rows) for rows in cohort.rows)

    def share(self, x: Tensor, y: Tensor, row: int) -> Tensor:
        """What a row, `x` and `y` (1, ...), adds to the residual, (m,), but for what does not depend on it.

        Only where the rows are separable. To entries within their bounds it adds nothing; see `moving`.
        """
        pairs = self._pairs(x, y, slice(row, row + 1))
        return torch.cat([own / one.divisors for own, one in pairs])

    @property
    def smooth(self) -> bool:
        """Whether a smoother network stands in for the real one."""
        return self._smoothing > 0

    @property
    def bounded(self) -> bool:
        """Whether the residual has entries that are not known but bounded."""
        return any(len(one.within) for targets in self._targets for one in targets.values())

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Which entries of the residual (m,) move with the inputs: none within its bounds. None: all."""
        if not self.bounded:
            return None
        with torch.no_grad():
            return torch.cat([one.moving(own) for own, one in self._pairs(x, y)])

    @property
    def expected(self) -> float:
        """The sum of squares that the right rows have, of noise on record and a float32's rounding alone."""
        return sum(one.expected for targets in self._targets for one in targets.values())

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the squares of the residual, a scalar."""
        return self.residual(x, y).square().sum()

    def cosine(self, x: Tensor, y: Tensor) -> Tensor:
        """1 less the cosine between simulated and told over all known entries, a scalar from 0.

        Geiping et al., arXiv:2003.14053, eq. 4. A factor that only shortens what came, such as clipping,
        leaves it as it is. Half the square of what is beyond bounds, where the known entries are made as long
        as what came and this is the unit, comes on top: so much do known entries at that distance add.
        """
        pairs = self._pairs(x, y)
        own = torch.cat([one.known(own) for own, one in pairs])
        told = torch.cat([one.known(one.values) for _, one in pairs])
        away = 1 - F.cosine_similarity(own, told, dim=0, eps=1e-30)
        if not self.bounded:
            return away
        length = told.norm().clamp_min(1e-30)
        longer = length / own.norm().clamp_min(1e-30)
        beyond = torch.cat([one.beyond(longer * own) for own, one in pairs])
        half: Tensor = (beyond / length).square().sum() / 2
        return away + half

    def _pairs(self, x: Tensor, y: Tensor, these: slice = slice(None)) -> list[tuple[Tensor, Target]]:
        """The known and the bounded entries of each array as simulated, beside what came of them."""
        return [
            (one.of(simulated[key]), one)
            for simulated, targets in zip(self._simulated(x, y, these), self._targets, strict=True)
            for key, one in targets.items()
            if key in simulated
        ]

    def _told(
        self, exchange: Exchange, weights: Weights, cohort: _Cohort, x: Tensor, y: Tensor, these: slice
    ) -> Weights:
        """The mean over the clients, each as it counts."""
        moving = {
            key: weight
            for key, weight in weights.items()
            if key != self._embedding_key or not x.is_floating_point()
        }
        clipped = exchange.clipping_norm > 0
        if self._adds_up(exchange, cohort) and not (clipped and len(cohort.rows) > 1):
            return _clipped(self._step(exchange, moving, x, y, cohort.each[these]), exchange)
        sizes = list(cohort.rows)
        clients = zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)
        told = [_clipped(self._change(exchange, moving, *rows), exchange) for rows in clients]
        shares = torch.tensor(cohort.shares, dtype=torch.float64)
        return {key: torch.tensordot(shares, torch.stack([one[key] for one in told]), 1) for key in moving}

    def _step(self, exchange: Exchange, weights: Weights, x: Tensor, y: Tensor, each: Tensor) -> Weights:
        """What one step on these rows would tell, of whose gradients `each` counts so much."""
        training = exchange.training
        gradient = self._gradient(weights, x, y, each, training.dp_sgd)
        if exchange.kind == "gradient":
            return gradient
        direction = _regularised(gradient, weights, weights, training)
        return {key: -training.learning_rate * one for key, one in direction.items()}

    def _change(self, exchange: Exchange, weights: Weights, x: Tensor, y: Tensor) -> Weights:
        """What one client would tell: its gradient, or its weights after the steps less those before."""
        training, now, velocity = exchange.training, weights, dict[str, Tensor]()
        if exchange.kind == "gradient":
            return self._gradient(weights, x, y, _alike(y), training.dp_sgd)
        size = training.batch_size
        batches = list(zip(torch.split(x, size), torch.split(y, size), strict=True))
        for step in range(training.step_count(len(y))):
            rows, labels = batches[step % len(batches)]
            gradient = self._gradient(now, rows, labels, _alike(labels), training.dp_sgd)
            direction = _regularised(gradient, now, weights, training)
            if training.momentum and velocity:
                direction = {key: training.momentum * velocity[key] + new for key, new in direction.items()}
            velocity = direction
            now = {key: now[key] - training.learning_rate * direction[key] for key in now}
        return {key: now[key] - weights[key] for key in now}

    def _clipped_by_row(self, weights: Weights, x: Tensor, y: Tensor, each: Tensor, norm: float) -> Weights:
        """The sum of the rows' gradients, each at most so long, of which `each` counts so much."""
        rows = zip(torch.split(x, 1), torch.split(y, 1), strict=True)
        alone = torch.ones_like(each[:1])
        told = [_shortened(self._gradient(weights, *row, alone), norm, order=2) for row in rows]
        return {key: torch.tensordot(each, torch.stack([one[key] for one in told]), 1) for key in weights}

    def _gradient(
        self, weights: Weights, x: Tensor, y: Tensor, each: Tensor, dp_sgd: DpSgd | None = None
    ) -> Weights:
        """The gradient of the rows' cross-entropies, of which `each` counts so much, summed."""
        if dp_sgd is not None:
            return self._clipped_by_row(weights, x, y, each, dp_sgd.clipping_norm)

        def loss(moving: Weights) -> Tensor:
            logits = forward(self._network, moving, x, self._smoothing)
            return _cross_entropies(logits, y) @ each

        found: Weights = torch.func.grad(loss)(weights)
        return found


def _alike(y: Tensor) -> Tensor:
    """What each row counts in a mean, (rows,)."""
    return torch.full((len(y),), 1 / len(y), dtype=torch.float64)


def _clipped(change: Weights, exchange: Exchange) -> Weights:
    """The change of one client, clipped as the exchange says."""
    if not exchange.clipping_norm:
        return change
    return _shortened(change, exchange.clipping_norm, exchange.clipping_order)


def _shortened(arrays: Weights, norm: float, order: Literal[1, 2]) -> Weights:
    """The arrays times what makes their common norm at most so large."""
    flat = torch.cat([one.flatten() for one in arrays.values()])
    length = torch.linalg.vector_norm(flat, order)
    factor = norm / length.clamp_min(norm)
    return {key: one * factor for key, one in arrays.items()}


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over the positions of each row, (rows,), for class numbers or probabilities."""
    flat = logits.flatten(0, -2)
    labels = y.flatten(0, -2) if y.is_floating_point() else y.flatten()
    return F.cross_entropy(flat, labels, reduction="none").view(len(y), -1).mean(1)


def _regularised(gradient: Weights, now: Weights, received: Weights, training: LocalTraining) -> Weights:
    """The gradient with weight decay and the pull of FedProx, as `fedeff.clients.optimisers` has them."""
    if training.weight_decay:
        gradient = {key: g + training.weight_decay * now[key] for key, g in gradient.items()}
    if training.prox_mu and now is not received:
        gradient = {key: g + training.prox_mu * (now[key] - received[key]) for key, g in gradient.items()}
    return gradient


def _stop_counting(network: nn.Module) -> bool:
    """Whether the network has batch normalisation, whose batches are no longer counted from now on.

    A count is written in place, which a function that is differentiated must not do.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.num_batches_tracked = None
    return bool(norms)


def _own_weights(network: nn.Module, exchange: Exchange) -> Weights:
    """The trained weights that the exchange began with, float64; buffers go into the network."""
    load_weights(network, exchange.weights)
    return {key: p.detach().clone() for key, p in network.named_parameters() if p.requires_grad}
