"""What candidate inputs would have made a client send, and how far that is from what came.

The attacks that optimise share this: the exchange is replayed in float64, differentiable in the inputs,
through as many local steps as the client took.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedeff.audit.replay.forward import first_embedding, forward
from fedeff.audit.view import Exchange, NDArray, ServerView
from fedeff.clients import LocalTraining
from fedeff.clients.dp_sgd import DpSgd
from fedeff.clients.loop import has_dropout
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError

__all__ = ["Matching", "obstacle_to_replay", "replayed_rows"]

_WIRE_ERROR = 2.0**-24  # of a float32 beside its own size: the most that rounding changes it
_SMALLEST_LAYER = (
    1e-6  # norm beside the largest: below it is rounding, as of a bias under batch normalisation
)
Weights = dict[str, Tensor]
Scale = Literal["layer", "noise", "none"]


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
    rows = _given_rows(exchange, view)
    if not rows:
        return "the client does not say how many rows it has; give their labels, or a view that says it"
    once = _one_step(exchange, rows / exchange.clients) and not exchange.clipping_norm
    if rows % exchange.clients and not once:
        return (
            f"{rows} rows of {exchange.clients} clients that took steps of their own cannot be told apart; "
            "show a sum of clients with equal shares"
        )
    return None


def _matched(view: ServerView) -> tuple[Exchange, ...]:
    """The exchanges that tell of the same rows: all, or the first alone."""
    return view.exchanges if view.same_rows else view.exchanges[:1]


def _one_step(exchange: Exchange, rows: float) -> bool:
    """Whether a client of so many rows takes one step, on all of them."""
    training = exchange.training
    once = training.steps == 1 or (not training.steps and training.epochs == 1)
    return exchange.kind == "gradient" or (once and rows <= training.batch_size)


def _given_rows(exchange: Exchange, view: ServerView) -> int:
    if exchange.examples or view.labels is None:
        return exchange.examples
    return len(view.labels)


def replayed_rows(exchange: Exchange, view: ServerView) -> int:
    """How many rows left a trace in an exchange: those that a step saw, of each client."""
    rows, training = _given_rows(exchange, view), exchange.training
    if exchange.kind == "gradient" or not training.steps or rows % exchange.clients:
        return rows
    return exchange.clients * min(rows // exchange.clients, training.steps * training.batch_size)


@dataclass(frozen=True, eq=False)
class _Target:
    """What came of one array: known values, their places (None: all), what each is divided by.

    `expected` is the sum of squares of what noise and rounding leave of the residual.
    """

    values: Tensor
    places: Tensor | None
    divisors: Tensor
    expected: float

    def of(self, simulated: Tensor) -> Tensor:
        """The known entries of a simulated array."""
        flat = simulated.flatten()
        return flat if self.places is None else flat[self.places]


class Matching:
    """Replays of a view's exchanges by candidate rows, and their distance to what came.

    With `scale` "layer" each array's error is divided by the norm of what came of it, with "noise" each
    entry's by the standard deviation that it is told to have and a float32's rounding, with "none" by
    nothing. `smoothing` above 0 stands in a softplus of that width for each rectifier, and as smooth a
    maximum for pooling by the largest.

    Rows are cut into batches in their order, the same in every pass and every exchange: where a client took
    several steps on parts of its rows in another order, the replay is an approximation. Rows of a sum over
    several clients are cut into equal shares first; several exchanges that are not on the same rows are
    matched in the first alone. Clipping, of a client's change or of each row's gradient, is replayed; arrays
    that are stale are left out.

    Inputs `x` are (rows, *shape) float64; for text int64 tokens, or, where float, what the first
    nn.Embedding of the network makes of them, (rows, length, width): then the array of that embedding is
    left out of everything. Labels `y` are int64 (rows,) or (rows, length), or probabilities with one more
    axis. Everything is differentiable in both, also by torch.func under vmap.

    Raises AuditError for what cannot be replayed: other optimizers than sgd and momentum, dropout, other
    objectives than the cross-entropy, clients that do not say how many rows they have.
    """

    def __init__(self, view: ServerView, *, scale: Scale = "layer", smoothing: float = 0.0) -> None:
        if obstacle := obstacle_to_replay(view):
            raise AuditError(obstacle)
        self._exchanges, self._smoothing = _matched(view), smoothing
        self.rows = replayed_rows(self._exchanges[0], view)
        self.shape = view.public.input_shape
        self._network = view.public.network().double().train()
        found = first_embedding(self._network)
        self._embedding_key = None if found is None else found[0]
        self._weights = [_own_weights(self._network, exchange) for exchange in self._exchanges]
        self._normalises_batches = _stop_counting(self._network)
        self._targets = [
            _targets(exchange, own, scale)
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
        return [
            self._told(exchange, weights, x, y)
            for exchange, weights in zip(self._exchanges, self._weights, strict=True)
        ]

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """Simulated less told, (m,) over the known entries, each divided as `scale` says."""
        return torch.cat([(own - one.values) / one.divisors for own, one in self._pairs(x, y)])

    @property
    def separable(self) -> bool:
        """Whether each row adds to the residual by itself: one step, and no batch is normalised."""
        return not self._normalises_batches and all(
            _one_step(exchange, self.rows / exchange.clients) and not exchange.clipping_norm
            for exchange in self._exchanges
        )

    def share(self, x: Tensor, y: Tensor) -> Tensor:
        """What one row (1, ...) adds to the residual, (m,), but for what does not depend on it.

        Only where the rows are separable.
        """
        return torch.cat([own / one.divisors for own, one in self._pairs(x, y)]) / self.rows

    @property
    def expected(self) -> float:
        """The sum of squares that the right rows have, of noise on record and a float32's rounding alone."""
        return sum(one.expected for targets in self._targets for one in targets.values())

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the squares of the residual, a scalar."""
        return self.residual(x, y).square().sum()

    def cosine(self, x: Tensor, y: Tensor) -> Tensor:
        """1 less the cosine between simulated and told over all known entries, a scalar in [0, 2].

        Geiping et al., arXiv:2003.14053, eq. 4. A factor that only shortens what came, such as clipping,
        leaves it as it is.
        """
        pairs = self._pairs(x, y)
        own, told = torch.cat([own for own, _ in pairs]), torch.cat([one.values for _, one in pairs])
        return 1 - F.cosine_similarity(own, told, dim=0, eps=1e-30)

    def _pairs(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, _Target]]:
        """The known entries of each array as simulated, beside what came of them."""
        return [
            (one.of(simulated[key]), one)
            for simulated, targets in zip(self.simulated(x, y), self._targets, strict=True)
            for key, one in targets.items()
            if key in simulated
        ]

    def _told(self, exchange: Exchange, weights: Weights, x: Tensor, y: Tensor) -> Weights:
        """The mean over the clients, each with an equal share of the rows."""
        moving = {
            key: weight
            for key, weight in weights.items()
            if key != self._embedding_key or not x.is_floating_point()
        }
        shares = 1 if self._in_one_batch(exchange, len(y)) else exchange.clients
        told = [
            _clipped(self._change(exchange, moving, rows, labels), exchange)
            for rows, labels in zip(x.chunk(shares), y.chunk(shares), strict=True)
        ]
        if shares == 1:
            return told[0]
        return {key: torch.stack([one[key] for one in told]).mean(0) for key in moving}

    def _in_one_batch(self, exchange: Exchange, rows: int) -> bool:
        """Whether the mean over the clients is what one step on all of their rows would tell."""
        if rows % exchange.clients:
            return True
        if exchange.clipping_norm and exchange.clients > 1:
            return False
        return not self._normalises_batches and _one_step(exchange, rows / exchange.clients)

    def _change(self, exchange: Exchange, weights: Weights, x: Tensor, y: Tensor) -> Weights:
        """What one client would tell: its gradient, or its weights after the steps less those before."""
        if exchange.kind == "gradient":
            return self._gradient(weights, x, y, exchange.training.dp_sgd)
        training, now, velocity = exchange.training, weights, dict[str, Tensor]()
        joint = exchange.clients > 1 and self._in_one_batch(exchange, len(y))
        size = len(y) if joint else training.batch_size
        batches = list(zip(torch.split(x, size), torch.split(y, size), strict=True))
        for step in range(1 if joint else training.step_count(len(y))):
            gradient = self._gradient(now, *batches[step % len(batches)], training.dp_sgd)
            direction = _regularised(gradient, now, weights, training)
            if training.momentum and velocity:
                direction = {key: training.momentum * velocity[key] + new for key, new in direction.items()}
            velocity = direction
            now = {key: now[key] - training.learning_rate * direction[key] for key in now}
        return {key: now[key] - weights[key] for key in now}

    def _clipped_by_row(self, weights: Weights, x: Tensor, y: Tensor, norm: float) -> Weights:
        """The mean of the rows' gradients, each at most so long."""
        rows = zip(torch.split(x, 1), torch.split(y, 1), strict=True)
        each = [_shortened(self._gradient(weights, *row), norm, order=2) for row in rows]
        return {key: torch.stack([one[key] for one in each]).mean(0) for key in weights}

    def _gradient(self, weights: Weights, x: Tensor, y: Tensor, dp_sgd: DpSgd | None = None) -> Weights:
        """The gradient of the mean cross-entropy."""
        if dp_sgd is not None:
            return self._clipped_by_row(weights, x, y, dp_sgd.clipping_norm)

        def loss(moving: Weights) -> Tensor:
            logits = forward(self._network, moving, x, self._smoothing)
            return _cross_entropy(logits, y)

        found: Weights = torch.func.grad(loss)(weights)
        return found


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


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over rows and positions, for class numbers or probabilities."""
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, y.flatten(0, -2) if y.is_floating_point() else y.flatten())


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


def _targets(exchange: Exchange, own: Weights, scale: Scale) -> dict[str, _Target]:
    """What came of each array of which something is known."""
    told = {key: one for key, one in exchange.told.items() if key in own and _tells(exchange, key)}
    norms = {key: float(np.linalg.norm(one.values[one.mask])) for key, one in told.items()}
    least = _SMALLEST_LAYER * max(norms.values(), default=0.0) or 1.0
    found = {}
    for key, one in told.items():
        errors = _errors(exchange, key, least)
        by_layer = 1.0 if scale == "none" else max(norms[key], least)
        divisors = errors if scale == "noise" else np.full(errors.shape, by_layer)
        known = one.mask.ravel()
        places = None if known.all() else torch.from_numpy(np.flatnonzero(known))
        values = one.values.astype(np.float64).ravel()[known]
        expected = float(np.sum((errors / divisors).ravel()[known] ** 2))
        each = torch.from_numpy(divisors.ravel()[known])
        found[key] = _Target(torch.from_numpy(values), places, each, expected)
    return found


def _tells(exchange: Exchange, key: str) -> bool:
    """Whether something is known of how an array changed in this round, not since some earlier one."""
    return key not in exchange.stale and bool(exchange.told[key].mask.any())


def _errors(exchange: Exchange, key: str, least: float) -> NDArray:
    """The error to be expected of each entry: what is on record, and a float32's rounding.

    A change is as inexact as the weight that travelled.
    """
    one = exchange.told[key]
    size = np.where(one.mask, np.abs(one.values), 0.0)
    rounded = np.abs(exchange.weights[key]) if exchange.kind == "change" else size
    typical = np.sqrt(np.mean(size**2, where=one.mask)) or least
    # Not entry by entry: of an entry near zero nearly nothing would be allowed for.
    floor = _WIRE_ERROR * max(float(np.sqrt(np.mean(rounded**2))), float(typical))
    return np.asarray(np.hypot(np.broadcast_to(one.std, one.values.shape), floor))
