"""Exact inputs from a first dense layer with a bias: a division."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.audit.attacks.labels import LabelInference, infer_labels
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.gradients.last_layer import gradient_bounds_of, mean_gradient_of
from fedeff.audit.gradients.rank_one import rank_one
from fedeff.audit.replay.matching import replayed_rows
from fedeff.audit.view import Exchange, NDArray, ServerView
from fedeff.core.errors import AuditError

__all__ = ["Phong", "first_dense"]

_LEAST_BIAS = 1e-6  # of the largest: a smaller gradient of a bias is rounding
_SAME = 1e-3  # of the range, root mean square: neurons that show one input agree as well as that


@dataclass(frozen=True)
class Phong:
    """Divides the gradient of a first dense layer's weight by that of its bias: `x = dW_i / db_i`.

    Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 2018,
    section 3. One row: exact, by least squares over all neurons, also where most entries are unknown. Several
    rows: each neuron that only one of them excites shows it; neurons that agree come first. The neurons are
    those of all rounds on the same rows. Not for networks that begin with another layer, nor dense layers
    without a bias; of several local steps an approximation.
    """

    name: str = "phong"

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if view.public.task != "classify":
            return "inputs are tokens; use an attack on text"
        name = first_dense(view)
        if name is None:
            return "the network does not begin with a dense layer that has a bias"
        if not replayed_rows(view.first, view):
            return "the client does not say how many rows it has"
        return None if _telling(view, name) else "the first layer's weight or bias is unknown"

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The inputs; nothing is drawn, and it takes milliseconds. Raises AuditError for an obstacle."""
        if obstacle := self.obstacle(view):
            raise AuditError(obstacle)
        began, rows = time.monotonic(), replayed_rows(view.first, view)
        name = first_dense(view) or ""
        weight, bias = _gradients(view, name)
        found = (
            _of_one(weight, bias, name, view)[None] if rows == 1 else _of_several(weight, bias, rows, view)
        )
        public = view.public
        inputs = np.nan_to_num(found, nan=(public.lowest + public.highest) / 2)
        inputs = inputs.clip(public.lowest, public.highest).reshape(-1, *public.input_shape)
        labels = view.labels
        if labels is None and LabelInference().obstacle(view) is None:
            labels = infer_labels(view)
        # Of several rows it is not known which label is whose.
        own = labels if rows == 1 else None
        facts = {"inputs found": float(len(inputs))}
        return Finding(self.name, inputs, own, float("nan"), True, time.monotonic() - began, facts)


def first_dense(view: ServerView) -> str | None:
    """The name of the dense layer with a bias that reads the inputs as they are; None without."""
    network, seen = view.public.network().eval(), list[tuple[str, torch.Tensor]]()
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.register_forward_hook(lambda one, given, made, name=name: seen.append((name, given[0])))
    x = torch.rand((2, *view.public.input_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(x.to(next(network.parameters()).dtype))
    reads = [name for name, given in seen if given.numel() == x.numel() and _alike(given, x)]
    return reads[0] if reads else None


def _alike(given: torch.Tensor, x: torch.Tensor) -> bool:
    return torch.equal(given.reshape(len(x), -1).float(), x.flatten(1))


def _telling(view: ServerView, name: str) -> list[Exchange]:
    """The exchanges, all on the rows of the first, that tell something of the layer's weight and bias."""
    alike = view.exchanges if view.same_rows else view.exchanges[:1]
    parts = [[one.told.get(f"{name}.{part}") for part in ("weight", "bias")] for one in alike]
    return [
        exchange
        for exchange, both in zip(alike, parts, strict=True)
        if all(one is not None and one.mask.any() for one in both)
    ]


def _gradients(view: ServerView, name: str) -> tuple[NDArray, NDArray]:
    """The layer's weight gradient (neurons, width) and bias gradient (neurons,), NaN where unknown.

    Of several exchanges the neurons of each: the inputs that they show are the same.
    """
    told = [
        [mean_gradient_of(one, f"{name}.{part}", 1)[0] for part in ("weight", "bias")]
        for one in _telling(view, name)
    ]
    weights, biases = zip(*told, strict=True)
    return np.concatenate(weights), np.concatenate(biases)


def _of_one(weight: NDArray, bias: NDArray, name: str, view: ServerView) -> NDArray:
    """The input (width,) that fits all neurons best, those whose bias is unknown too.

    An entry that no neuron tells is the middle of what it can be.
    """
    public = view.public
    start = np.append(1.0, np.full(weight.shape[1], (public.lowest + public.highest) / 2))
    slopes, found = rank_one(np.column_stack([bias, weight]), start)
    least, largest = _reach(view, name, slopes)
    untold = ~np.isfinite(weight).any(axis=0)
    return np.asarray(np.where(untold, (least + largest) / 2, found[1:]))


def _reach(view: ServerView, name: str, slopes: NDArray) -> tuple[NDArray, NDArray]:
    """The least and the largest that each entry of the input (width,) can be, given the neurons' slopes."""
    public = view.public
    each = [gradient_bounds_of(one, f"{name}.weight", 1) for one in _telling(view, name)]
    below, above = (np.concatenate(sides) for sides in zip(*each, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([below / slopes[:, None], above / slopes[:, None]])
    least, largest = np.fmax.reduce(np.fmin(*ends)), np.fmin.reduce(np.fmax(*ends))
    least = np.fmax(least, public.lowest).clip(max=public.highest)
    return least, np.fmin(largest, public.highest).clip(min=least)


def _of_several(weight: NDArray, bias: NDArray, rows: int, view: ServerView) -> NDArray:
    """At most so many inputs (n, width), those on which most neurons agree first.

    A neuron that several rows excite shows a mixture of them: mostly out of range, or alone with it.
    """
    public = view.public
    span = public.highest - public.lowest
    sure = np.abs(np.nan_to_num(bias)) > _LEAST_BIAS * np.nanmax(np.abs(bias), initial=0.0)
    shown = weight[sure] / bias[sure, None]
    with np.errstate(invalid="ignore"):
        outside = (shown < public.lowest - _SAME * span) | (shown > public.highest + _SAME * span)
    shown = shown[~outside.any(axis=1)]
    agreeing = _agreement(shown, span)
    votes, found = agreeing.sum(axis=1), list[int]()
    for neuron in np.argsort(-votes, kind="stable"):
        if len(found) < rows and not agreeing[neuron, found].any():
            found.append(int(neuron))
    return np.asarray(shown[found])


def _agreement(shown: NDArray, span: float) -> NDArray:
    """Which neurons show the same, (n, n) booleans, over the entries that both of them show."""
    known = np.isfinite(shown)
    values, seen = np.where(known, shown, 0.0), known.astype(np.float64)
    squares = values**2 @ seen.T
    off = squares + squares.T - 2 * values @ values.T
    both = seen @ seen.T
    return np.asarray((both > 0) & (off <= both * (_SAME * span) ** 2))
