"""R-GAP: one input, layer by layer from the last to the first (Zhu & Blaschko, arXiv:2010.07733)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedeff.audit.attacks.dense_front import Gradient, gradient_of, loaded, low_rank_obstacle
from fedeff.audit.attacks.layers.layer_chain import Link, chain_of
from fedeff.audit.attacks.layers.layer_patches import patches_of
from fedeff.audit.attacks.layers.layer_solve import Outcome, Solved, solved
from fedeff.audit.attacks.layers.smoothed_pooling import followed
from fedeff.audit.attacks.least_squares import Descent, Stopping, descend
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching, obstacle_to_replay
from fedeff.audit.view import ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["RGap"]

_EXACT = 1e-6  # squared relative residual of the gradient under which the input explains what came
_LAST_STEPS = Stopping(10, 1e-20, 1e-3)
_DENSE = 1024  # unknowns up to which these take the whole Jacobian


@dataclass(frozen=True)
class RGap:
    """The input of a client with one row, by linear solves from the last layer back to the first.

    The last bias tells `dL/dz` of the logits. Given `dL/dz` of a layer, what it read solves two linear
    systems at once: `dL/dW = dL/dz * x`, and, but for the last layer, `W x + b = z` where the activation
    lets `z` be seen (gradient and weight constraints, section 3). What a layer read is what the activation
    before it gave, and so on. Where pooling takes the largest of a window, which one that was is sought
    along with x, and what a layer read is kept within what can come out of the activation before it (layers
    solved as optimisation, the latter a pull-back constraint: COPA, Chen & Campbell, arXiv:2111.10178; how
    places are sought is our own). Gauss-Newton steps on the whole gradient end it where it does not fit.

    For networks that are a chain of dense and convolutional layers with rising activations, pooled by
    windows side by side: no normalisation or shortcuts. Behind a ReLU only units that are on
    constrain what came before, and others bound it; with too few filters the systems have several solutions
    and the nearest to the middle of the range comes out. Errors of the wire grow from layer to layer.
    `loss` is the squared relative residual of the gradient that the input would have given.
    """

    name: str = "r-gap"

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        first = view.first
        if view.public.task != "classify":
            return "inputs are tokens; r-gap solves for real numbers"
        if first.rows != 1 or first.clients != 1 or first.steps != 1:
            return f"{first.rows} rows and {first.steps} steps; r-gap rebuilds one row from one step"
        if obstacle := low_rank_obstacle(first) or obstacle_to_replay(view):
            return obstacle
        try:
            last = chain_of(loaded(view.public, first.weights), view.public.input_shape)[-1]
        except AuditError as error:
            return str(error)
        if not isinstance(last.layer, nn.Linear) or last.layer.bias is None:
            return f"the last layer {last.name!r} is not dense with a bias, where r-gap begins"
        if f"{last.name}.bias" not in first.told or not gradient_of(first, f"{last.name}.bias").known.all():
            return f"the gradient of {last.name}.bias did not come whole, and r-gap begins there"
        return None

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The input and its label; draws nothing."""
        began = time.monotonic()
        if obstacle := self.obstacle(view):
            raise AuditError(f"r-gap cannot run: {obstacle}")
        links = chain_of(loaded(view.public, view.first.weights), view.public.input_shape)
        back = _told(view, links[-1].name, "bias").values
        label = np.array([back.argmin()])
        with one_thread(), torch.no_grad():
            x, iterations = _peeled(view, links, torch.from_numpy(back), budget)
            x = x.reshape(1, *view.public.input_shape)
            x, loss = _polished(view, x, torch.from_numpy(label), budget)
        facts = {"layers": float(len(links)), "iterations": float(iterations)}
        ended = loss < _EXACT or not budget.spent  # by itself: more time would change nothing
        return Finding(self.name, x.numpy(), label, loss, ended, time.monotonic() - began, facts)


def _polished(view: ServerView, x: Tensor, y: Tensor, budget: Budget) -> tuple[Tensor, float]:
    """The input and its loss, after Gauss-Newton steps on the whole gradient where it does not fit."""
    matching = Matching(view)
    loss = float(matching.squared(x, y))
    if loss < _EXACT or budget.spent:
        return x, loss
    with torch.enable_grad():
        end = descend(matching, Descent(x), y, budget, _LAST_STEPS, dense=_DENSE)
    moved = end.x.clamp(view.public.lowest, view.public.highest)
    after = float(matching.squared(moved, y))
    return (moved, after) if after < loss else (x, loss)


def _told(view: ServerView, name: str, kind: str) -> Gradient:
    """The gradient of a layer's array; with nothing known of it where nothing came."""
    key = f"{name}.{kind}"
    if key in view.first.told:
        return gradient_of(view.first, key)
    shape = view.first.weights[key].shape
    return Gradient(np.zeros(shape), np.zeros(shape, bool), 0.0)


def _peeled(view: ServerView, links: list[Link], back: Tensor, budget: Budget) -> tuple[Tensor, int]:
    """What the first layer read, and the iterations of all solves; `back` is the gradient of the logits."""
    public = view.public
    gave: Solved | None = None  # by the activation after the layer at hand
    iterations = 0
    for place in range(len(links) - 1, -1, -1):
        link = links[place]
        bounds = links[place - 1].after.bounds() if place else (public.lowest, public.highest)
        middle = 0.0 if place else (public.lowest + public.highest) / 2
        start = torch.full(link.reads, middle, dtype=torch.float64)
        patches, told = patches_of(link), _told(view, link.name, "weight")
        # Where images are read there are few filters for the places of a window to show in the gradient.
        solve = solved if place or patches.places == 1 else followed
        gave = solve(patches, told, _outcome(link, gave, back), start, bounds, budget)
        back, iterations = gave.back, iterations + gave.iterations
    assert gave is not None
    return gave.x, iterations


def _outcome(link: Link, gave: Solved | None, back: Tensor) -> Outcome:
    """What is known of the outputs of a link, once pooled; of the last link's only what comes back."""
    by_window = (link.gives[0], -1)
    if gave is None:
        nothing = torch.zeros_like(back, dtype=torch.bool)[None]
        return Outcome(torch.zeros_like(back)[None], nothing, nothing, back[None])
    y = gave.x.reshape(by_window).T
    z, seen = link.after.inverse(y, gave.error)
    back = back.reshape(by_window).T * link.after.derivative(y, gave.error)
    return Outcome(z, seen, ~seen & (link.after.kind == "relu"), back)
