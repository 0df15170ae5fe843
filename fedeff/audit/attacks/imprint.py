"""Reads what an imprint layer took (Robbing the Fed, Fowl et al., arXiv:2110.13057)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.audit.attacks.dense_front import (
    DenseFront,
    dense_front,
    gradient_of,
    loaded,
    low_rank_obstacle,
)
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.view import NDArray, ServerView
from fedeff.core.errors import AuditError

__all__ = ["Imprint", "imprint_layer"]

_EQUAL = 1e-5  # of the size of a row: rows that differ by less are meant to be equal
_STANDARD_ERRORS = 8.0
_EMPTY = 1e-4  # of what the fullest bin tells: a bin that tells less holds nothing but rounding
_CONFIRMED = 1e-3  # by which what a bin tells may differ from what its input alone would have told


@dataclass(frozen=True, eq=False)
class _Bins:
    """What each bin that is not empty tells: the gradient of bias (bins,) and of weights (bins, inputs)."""

    bias: NDArray
    weight: NDArray
    known: NDArray


@dataclass(frozen=True)
class Imprint:
    """The inputs that a malicious server's imprint layer separated into bins, by differences of neighbours.

    The units of the layer measure the same and differ in their threshold, so what two neighbours tell
    differs by the rows that lie between (section 4): alone in its bin an input is exact, together they
    come as their mean. A sum over clients only has more rows. Whether a bin holds one input is checked by
    what that input alone would have told, which also tells its label; `facts` has how many are confirmed.

    The server must have sent such a network: `fedeff.audit.imprinted` makes it. Not for several local
    steps, in which neighbours drift apart: ask clients for one. Pixels that are not known are set to
    the middle of the range.
    """

    name: str = "imprint"

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if obstacle := low_rank_obstacle(view.first):
            return obstacle
        if view.first.steps > 1:
            return f"clients took {view.first.steps} local steps; an imprint is read after one"
        front = imprint_layer(view)
        if front is None:
            return "the network that was sent has no imprint layer; send one of fedeff.audit.imprinted"
        if {front.weight, front.bias} - view.first.told.keys():
            return f"nothing came of {front.weight!r} and its bias, the imprint layer"
        return None

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The content of each bin that is not empty; milliseconds, whatever the budget."""
        began = time.monotonic()
        if obstacle := self.obstacle(view):
            raise AuditError(f"imprint cannot run: {obstacle}")
        front = imprint_layer(view)
        assert front is not None
        bins = _read(view, front)
        facts = {"bins": float(len(bins.bias)), "rows": float(view.first.rows), "confirmed": 0.0}
        if not len(bins.bias):
            return Finding(self.name, None, None, float("nan"), True, time.monotonic() - began, facts)
        inputs = _inputs(view, bins)
        labels, off = _labels(view, front, inputs, bins)
        facts["confirmed"] = float((off < _CONFIRMED).sum())
        return Finding(self.name, inputs, labels, float("nan"), True, time.monotonic() - began, facts)


def imprint_layer(view: ServerView) -> DenseFront | None:
    """The first layer, if it is dense with a ReLU and all its units measure the same; None otherwise."""
    front = dense_front(view.public, view.first.weights)
    if front is None or front.bias is None or not front.rectified:
        return None
    rows = np.asarray(view.first.weights[front.weight], np.float64)
    apart = np.linalg.norm(rows - rows[:1], axis=1).max()
    return front if len(rows) > 1 and apart <= _EQUAL * np.linalg.norm(rows[0]) else None


def _read(view: ServerView, front: DenseFront) -> _Bins:
    assert front.bias is not None
    weight, bias = gradient_of(view.first, front.weight), gradient_of(view.first, front.bias)
    # Units by rising threshold: each is on for the rows of its own bin and of all bins above.
    units = np.argsort(-np.asarray(view.first.weights[front.bias]), kind="stable")
    units = units[bias.known[units]]
    told = -np.diff(bias.values[units], append=0.0)
    apart = -np.diff(weight.values[units], axis=0, append=0.0)
    known = weight.known[units]
    known[:-1] &= known[1:]
    floor = max(_STANDARD_ERRORS * bias.error, _EMPTY * np.abs(told).max(initial=0.0))
    occupied = np.abs(told) > floor
    return _Bins(told[occupied], apart[occupied], known[occupied])


def _inputs(view: ServerView, bins: _Bins) -> NDArray:
    lowest, highest = view.public.lowest, view.public.highest
    content = np.where(bins.known, bins.weight / bins.bias[:, None], (lowest + highest) / 2)
    return np.clip(content, lowest, highest).reshape(-1, *view.public.input_shape)


def _labels(view: ServerView, front: DenseFront, inputs: NDArray, bins: _Bins) -> tuple[NDArray, NDArray]:
    """The label (bins,) under which each input alone tells most nearly what came, and how far off that is."""
    assert front.bias is not None
    network = loaded(view.public, view.first.weights)
    bias = dict(network.named_parameters())[front.bias]
    off = np.zeros((len(inputs), view.public.classes))
    for row, one in enumerate(torch.from_numpy(inputs)):
        log_likely = F.log_softmax(network(one[None]), 1)[0]
        for label in range(view.public.classes):
            (back,) = torch.autograd.grad(-log_likely[label], bias, retain_graph=True)
            alone = float(back[back.abs().argmax()]) / max(view.first.rows, 1)
            off[row, label] = abs(bins.bias[row] - alone) / max(abs(alone), 1e-300)
    return off.argmin(1), off.min(1)
