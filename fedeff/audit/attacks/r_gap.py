"""R-GAP: one input, layer by layer from the last to the first (Zhu & Blaschko, arXiv:2010.07733)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from fedeff.audit.attacks.dense_front import Gradient, gradient_of, loaded, low_rank_obstacle
from fedeff.audit.attacks.layer_chain import Link, chain_of
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.matching import Matching, obstacle_to_replay
from fedeff.audit.view import ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["RGap"]

_EXACT = 1e-6  # squared relative residual of the gradient under which the input explains what came
_PASSES = 10  # iterations of a solve, at most, for each unknown


@dataclass(frozen=True)
class RGap:
    """The input of a client with one row, by linear solves from the last layer back to the first.

    The last bias tells `dL/dz` of the logits. Given `dL/dz` of a layer, what it read solves two linear
    systems at once: `dL/dW = dL/dz * x`, and, but for the last layer, `W x + b = z` where the activation
    lets `z` be seen (gradient and weight constraints, section 3). What a layer read is what the activation
    before it gave, and so on.

    For networks that are a chain of dense and convolutional layers with rising activations: no pooling,
    normalisation or shortcuts. Behind a ReLU only units that are on constrain what came before; with too
    few filters the systems have several solutions and the nearest to the middle of the range comes out.
    Errors of the wire grow from layer to layer. `loss` is the squared relative residual of the gradient
    that the input would have given.
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
            x, iterations = _peeled(view, links, torch.from_numpy(back))
            x = x.clamp(view.public.lowest, view.public.highest).reshape(1, *view.public.input_shape)
            loss = float(Matching(view).squared(x, torch.from_numpy(label)))
        facts = {"layers": float(len(links)), "iterations": float(iterations)}
        return Finding(self.name, x.numpy(), label, loss, loss < _EXACT, time.monotonic() - began, facts)


def _told(view: ServerView, name: str, kind: str) -> Gradient:
    """The gradient of a layer's array; with nothing known of it where nothing came."""
    key = f"{name}.{kind}"
    if key in view.first.told:
        return gradient_of(view.first, key)
    shape = view.first.weights[key].shape
    return Gradient(np.zeros(shape), np.zeros(shape, bool), 0.0)


def _peeled(view: ServerView, links: list[Link], back: Tensor) -> tuple[Tensor, int]:
    """What the first layer read, and the iterations of all solves; `back` is the gradient of the logits."""
    gave: Tensor | None = None  # by the activation after the layer at hand
    iterations, middle = 0, (view.public.lowest + view.public.highest) / 2
    for place in range(len(links) - 1, -1, -1):
        link = links[place]
        if gave is not None:
            gave = gave.reshape(link.gives)
            back = back.reshape(link.gives) * link.after.derivative(gave)
        start = torch.full(link.reads, 0.0 if place else middle, dtype=torch.float64)
        read, used = _solved(link, _told(view, link.name, "weight"), back, gave, start)
        back = _to_input(link, link.layer.weight, back)
        gave, iterations = read, iterations + used
    assert gave is not None
    return gave, iterations


def _solved(
    link: Link, told: Gradient, back: Tensor, gave: Tensor | None, start: Tensor
) -> tuple[Tensor, int]:
    """What a layer read, by least squares over both kinds of constraints from `start`."""
    weight, known = link.layer.weight, torch.from_numpy(told.known)
    # Each kind is divided by its size, so that neither drowns the other.
    by_gradient, by_weight = 1 / float(back.norm().clamp_min(1e-300)), 1 / float(weight.norm(dim=0).max())
    seen = torch.zeros(link.gives, dtype=torch.bool)
    z = torch.zeros(link.gives, dtype=torch.float64)
    if gave is not None:
        z, seen = link.after.inverse(gave)
        z = z - _bias(link)

    def forward(flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).reshape(link.reads)
        outer, out = _weight_gradient(link, x, back), _linear(link, weight, x)
        return torch.cat([by_gradient * outer[known], by_weight * out[seen]]).numpy()

    def adjoint(flat: np.ndarray) -> np.ndarray:
        u = torch.from_numpy(flat)
        outer, out = torch.zeros_like(weight), torch.zeros_like(z)
        outer[known], out[seen] = by_gradient * u[: int(known.sum())], by_weight * u[int(known.sum()) :]
        return (_to_input(link, outer, back) + _to_input(link, weight, out)).flatten().numpy()

    target = torch.cat([by_gradient * torch.from_numpy(told.values)[known], by_weight * z[seen]]).numpy()
    operator = LinearOperator((len(target), start.numel()), matvec=forward, rmatvec=adjoint, dtype=np.float64)
    solved, _, iterations, *_ = lsmr(
        operator,
        target,
        atol=1e-14,
        btol=1e-14,
        conlim=0,
        maxiter=_PASSES * start.numel(),
        x0=start.flatten().numpy(),
    )
    return torch.from_numpy(solved).reshape(link.reads), int(iterations)


def _bias(link: Link) -> Tensor:
    if link.layer.bias is None:
        return torch.zeros((), dtype=torch.float64)
    return link.layer.bias.reshape(-1, *[1] * (len(link.gives) - 1))


def _linear(link: Link, weight: Tensor, x: Tensor) -> Tensor:
    """What the layer gives of one row without its bias."""
    if isinstance(link.layer, nn.Linear):
        return weight @ x
    layer = link.layer
    return F.conv2d(x[None], weight, None, layer.stride, layer.padding, layer.dilation)[0]


def _to_input(link: Link, weight: Tensor, out: Tensor) -> Tensor:
    """The adjoint of `_linear` in x, at what the layer gives."""
    if isinstance(link.layer, nn.Linear):
        return weight.T @ out
    layer = link.layer
    size = (1, *link.reads)
    back: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        size, weight, out[None], layer.stride, layer.padding, layer.dilation
    )
    return back[0]


def _weight_gradient(link: Link, x: Tensor, back: Tensor) -> Tensor:
    """`dL/dW` of a row that the layer reads as x where `dL/dz` is `back`; linear in x."""
    if isinstance(link.layer, nn.Linear):
        return torch.outer(back, x)
    layer = link.layer
    found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        x[None], layer.weight.shape, back[None], layer.stride, layer.padding, layer.dilation
    )
    return found
