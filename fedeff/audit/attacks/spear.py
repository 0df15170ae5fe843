"""SPEAR: whole batches, exactly, from a dense layer with a rectifier (Dimitrov et al., arXiv:2403.03945)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.audit.attacks.candidates import known_labels, obstacle_to_optimising, random_inputs
from fedeff.audit.attacks.dense_front import (
    DenseFront,
    dense_front,
    gradient_of,
    loaded,
    low_rank_obstacle,
)
from fedeff.audit.attacks.row_space import WIDTHS, fitted, in_row_space
from fedeff.audit.attacks.sparse_directions import (
    Factors,
    candidates,
    distinct,
    factorise,
    select,
    swapped,
    zeros_of,
)
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import NDArray, ServerView
from fedeff.core.errors import AuditError, ConfigError
from fedeff.models.threads import one_thread

__all__ = ["Spear"]

_DRAW = 5_000  # samples at a time: between draws the budget is looked at
_KEPT = 4  # candidates for each row that are kept
_ALIVE = 5.0  # times the norm of errors alone: a unit above it was on for some row
_EXACT = 1e-5  # squared relative residual, or share of units, under which the search is over
_NEAR = 0.97  # share of units that agree from which a fit is worth trying
_SINGULAR = 1e12  # condition of a mixture that is not worth inverting


@dataclass(frozen=True, eq=False)
class _Layer:
    """Units (m) that told something: which, gradients of weights and biases, and the layer's own arrays."""

    units: NDArray
    gradient: NDArray
    bias_gradient: NDArray
    weight: NDArray
    bias: NDArray
    factors: Factors


@dataclass(frozen=True, eq=False)
class _Rebuilt:
    """Inputs (rank, n), what each sends back to the units (m, rank), and the share of units that agree."""

    inputs: NDArray
    backward: NDArray
    agreement: float


@dataclass(frozen=True, eq=False)
class _End:
    """Inputs in their range, their labels, and how far they are from what came."""

    inputs: NDArray | None
    labels: NDArray | None
    loss: float


@dataclass(frozen=True)
class Spear:
    """Inputs behind the gradient of a first dense layer with a ReLU, exact for up to about 25 rows.

    `dL/dW = (dL/dZ) X` has the rank of the batch, and `dL/dZ` is zero wherever a unit is off (theorem 3.1
    and section 3). Directions under which many units vanish are found from random submatrices, as many of
    them as there are rows are chosen by zeros, and exchanged as long as more units are on where the rebuilt
    inputs switch them on (section 3.4); `dL/db` gives their lengths. It is the same for the sum over
    local steps of plain or momentum SGD and over several clients: each row adds one outer product, and
    only units that are off in all steps count as zeros.

    `samples` bounds the submatrices that are drawn; about `2 ** (rows - 1)` find one row where units are
    on half the time. A row that switches on the units of another row and more is not told from
    mixtures of both by zeros alone; after one step what is nearly right is therefore fitted to the
    whole exchange (`row_space`), and where nothing is, `restarts` random inputs in the row space are.
    That fit is not in the paper; it has few unknowns however large the inputs are. Not for layers behind
    others, or for noise and rounding beside which the zeros are not seen. Units of which an entry is not
    known are left out.
    """

    samples: int = 100_000
    restarts: int = 4
    name: str = "spear"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}; spear needs at least 1")
        if self.restarts < 0:
            raise ConfigError(f"restarts is {self.restarts}; spear needs at least 0")

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if obstacle := low_rank_obstacle(view.first):
            return obstacle
        front = dense_front(view.public, view.first.weights)
        if front is None:
            return "the first layer is not dense on the input; spear reads dense layers with a ReLU"
        if front.bias is None or not front.rectified:
            return f"no bias and ReLU at {front.weight!r}; spear needs both"
        if {front.weight, front.bias} - view.first.told.keys():
            return f"nothing came of {front.weight!r} and its bias, which spear reads"
        if view.first.rows < 1:
            return "the client does not say how many rows it has; spear looks for as many directions"
        units = int(_whole_units(view, front).sum())
        if units < view.first.rows:
            return (
                f"{units} units of {front.weight!r} came whole; spear needs more than {view.first.rows} rows"
            )
        return None

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The inputs, one for each direction that stands out of the errors, and their labels."""
        began = time.monotonic()
        if obstacle := self.obstacle(view):
            raise AuditError(f"spear cannot run: {obstacle}")
        front = dense_front(view.public, view.first.weights)
        assert front is not None
        layer = _layer(view, front)
        rank = layer.factors.rank
        best, facts = self._from_zeros(view, front, layer, budget, rng)
        narrow = _narrow(view, front, layer)
        restarts = 0
        while narrow and best.loss > _EXACT and restarts < self.restarts and not budget.spent:
            best = min(best, _from_anywhere(view, narrow, layer, budget, rng), key=lambda end: end.loss)
            restarts += 1
        facts |= {"rank": float(rank), "rows": float(view.first.rows), "restarts": float(restarts)}
        converged = rank == view.first.rows and best.loss <= _EXACT
        loss = float("nan") if best.inputs is None else best.loss
        seconds = time.monotonic() - began
        return Finding(self.name, best.inputs, best.labels, loss, converged, seconds, facts)

    def _from_zeros(
        self, view: ServerView, front: DenseFront, layer: _Layer, budget: Budget, rng: np.random.Generator
    ) -> tuple[_End, dict[str, float]]:
        """What the sparse directions give, the paper's way, and how they were found."""
        best, agreement, drawn = _End(None, None, float("inf")), 0.0, 0
        found = np.zeros((0, layer.factors.rank))
        while layer.factors.rank and drawn < self.samples and best.loss > _EXACT and not budget.spent:
            before, drawn = found, drawn + _DRAW
            found = _merged(layer.factors, found, candidates(layer.factors, _DRAW, rng))
            trial = None if np.array_equal(before, found) else _assembled(layer, found)
            if trial is not None and trial.agreement > agreement:
                agreement = trial.agreement
                best = min(best, _ended(view, front, layer, trial, budget), key=lambda end: end.loss)
        return best, {"samples": float(drawn), "agreement": agreement}


def _narrow(view: ServerView, front: DenseFront, layer: _Layer) -> ServerView | None:
    """The view in the coordinates of the row space; None where the step cannot be replayed there."""
    if view.first.steps > 1 or layer.factors.rank != view.first.rows or obstacle_to_optimising(view):
        return None
    return in_row_space(view, front.weight, layer.factors.right)


def _from_anywhere(
    view: ServerView, narrow: ServerView, layer: _Layer, budget: Budget, rng: np.random.Generator
) -> _End:
    """What a fit of random inputs within the row space ends with, from smooth rectifiers to the real ones."""
    labels, matching = known_labels(view, view.first.rows), Matching(view)
    drawn = random_inputs(view, matching, rng).numpy().reshape(len(labels), -1)
    found, _ = fitted(narrow, drawn @ layer.factors.right.T, labels, budget, WIDTHS)
    inputs = _inside(view, found @ layer.factors.right)
    return _End(inputs, labels, _distance(matching, inputs, labels))


def _ended(view: ServerView, front: DenseFront, layer: _Layer, rebuilt: _Rebuilt, budget: Budget) -> _End:
    """What was rebuilt, fitted to all that came where the client's step can be replayed."""
    inputs, labels = _inside(view, rebuilt.inputs), _labels(view, front, layer, rebuilt)
    narrow = _narrow(view, front, layer)
    if narrow is None:
        return _End(inputs, labels, 1 - rebuilt.agreement)
    matching, right = Matching(view), layer.factors.right
    ends = [_End(inputs, labels, _distance(matching, inputs, labels))]
    if ends[0].loss > _EXACT and rebuilt.agreement > _NEAR:
        nearer = _inside(view, fitted(narrow, rebuilt.inputs @ right.T, labels, budget)[0] @ right)
        ends.append(_End(nearer, labels, _distance(matching, nearer, labels)))
    return min(ends, key=lambda end: end.loss)


def _inside(view: ServerView, inputs: NDArray) -> NDArray:
    """Inputs in their range and shape: those that are wrong show by what is cut off."""
    inside = np.clip(inputs, view.public.lowest, view.public.highest)
    return inside.reshape(-1, *view.public.input_shape)


def _distance(matching: Matching, inputs: NDArray, labels: NDArray) -> float:
    """The squared relative residual of what came."""
    with one_thread(), torch.no_grad():
        return float(matching.squared(torch.from_numpy(inputs), torch.from_numpy(labels)))


def _whole_units(view: ServerView, front: DenseFront) -> NDArray:
    """The units (m,) of which every entry is known."""
    assert front.bias is not None
    weight, bias = (gradient_of(view.first, key) for key in (front.weight, front.bias))
    return np.asarray(weight.known.all(1) & bias.known)


def _layer(view: ServerView, front: DenseFront) -> _Layer:
    assert front.bias is not None
    exchange = view.first
    weight, bias = gradient_of(exchange, front.weight), gradient_of(exchange, front.bias)
    # Units that are off for every row tell nothing of the directions.
    floor = _ALIVE * weight.error * np.sqrt(weight.values.shape[1])
    alive = np.linalg.norm(weight.values, axis=1) > floor
    units = np.flatnonzero(_whole_units(view, front) & alive)
    factors = factorise(weight.values[units], exchange.rows, weight.error)
    own = [np.asarray(exchange.weights[key], np.float64)[units] for key in (front.weight, front.bias)]
    return _Layer(units, weight.values[units], bias.values[units], own[0], own[1], factors)


def _merged(factors: Factors, found: NDArray, new: NDArray) -> NDArray:
    """The directions of most zeros, most first."""
    both = distinct([*found, *new], factors.rank)
    order = np.argsort(-zeros_of(factors, both).sum(1), kind="stable")
    return both[order[: _KEPT * factors.rank]]


def _assembled(layer: _Layer, found: NDArray) -> _Rebuilt | None:
    """What the best choice among the directions rebuilds; None where they do not span."""
    factors = layer.factors
    chosen = select(found, factors.rank)
    if len(chosen) < factors.rank:
        return None
    projected = layer.weight @ factors.right.T

    def score(directions: NDArray) -> float:
        return _agreement(layer, directions, projected)

    places, agreement = swapped(found, chosen, score)
    return _rebuilt(layer, found[places], agreement)


def _agreement(layer: _Layer, directions: NDArray, projected: NDArray) -> float:
    """The share of units, over the rows, that are on just where their gradient is not zero."""
    mixing = directions.T * _lengths(layer, directions)
    if np.linalg.cond(mixing) > _SINGULAR:
        return 0.0
    on = projected @ np.linalg.inv(mixing).T + layer.bias[:, None] > 0
    return float(np.mean(on != zeros_of(layer.factors, directions).T))


def _lengths(layer: _Layer, directions: NDArray) -> NDArray:
    """What each direction is to be multiplied by, so that all together give the gradient of the biases."""
    return np.asarray(np.linalg.lstsq(layer.factors.left @ directions.T, layer.bias_gradient, rcond=None)[0])


def _rebuilt(layer: _Layer, directions: NDArray, agreement: float) -> _Rebuilt:
    backward = layer.factors.left @ (directions.T * _lengths(layer, directions))
    backward[zeros_of(layer.factors, directions).T] = 0.0
    inputs = np.linalg.lstsq(backward, layer.gradient, rcond=None)[0]
    return _Rebuilt(inputs, backward, agreement)


def _labels(view: ServerView, front: DenseFront, layer: _Layer, rebuilt: _Rebuilt) -> NDArray:
    """The class of each input under which the units would send back what they did, up to a factor."""
    assert front.bias is not None
    network = loaded(view.public, view.first.weights)
    bias = dict(network.named_parameters())[front.bias]
    x, told = torch.from_numpy(_inside(view, rebuilt.inputs)), torch.from_numpy(rebuilt.backward.T.copy())
    matches = torch.zeros(len(x), view.public.classes, dtype=torch.float64)
    for row, one in enumerate(x):
        log_likely = F.log_softmax(network(one[None]), 1)[0]
        for label in range(view.public.classes):
            (back,) = torch.autograd.grad(-log_likely[label], bias, retain_graph=True)
            matches[row, label] = F.cosine_similarity(back[layer.units], told[row], dim=0)
    return np.asarray(matches.argmax(1).numpy())
