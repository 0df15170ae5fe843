"""A network as a chain: dense or convolutional layers, each with the pooling and the activation after it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fedeff.core.errors import AuditError

__all__ = ["Activation", "Link", "Pool", "chain_of"]

Kind = Literal["none", "relu", "leaky-relu", "sigmoid", "tanh"]

_MODULES: dict[type[nn.Module], Kind] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky-relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_CALLS: dict[Any, Kind] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    F.leaky_relu: "leaky-relu",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    "sigmoid": "sigmoid",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    "tanh": "tanh",
}
_POOLINGS: dict[Any, Literal["max", "mean"]] = {
    nn.MaxPool2d: "max",
    nn.AvgPool2d: "mean",
    F.max_pool2d: "max",
    torch.max_pool2d: "max",
    F.avg_pool2d: "mean",
}
_SURE = 4.0  # standard deviations by which a unit is told from one that is off
_SHAPES = (torch.flatten, "flatten", "view", "reshape")


@dataclass(frozen=True)
class Activation:
    """What follows a layer, elementwise and rising; `slope` is that of a leaky ReLU below zero."""

    kind: Kind = "none"
    slope: float = 0.0

    def inverse(self, y: Tensor, error: float = 0.0) -> tuple[Tensor, Tensor]:
        """Before the activation, and where that is known: not where a ReLU is off, not in saturation.

        `error` is that of an entry of y.
        """
        if self.kind == "relu":
            return y, _is_on(y, error)
        if self.kind == "leaky-relu":
            return torch.where(y > 0, y, y / self.slope), torch.ones_like(y, dtype=torch.bool)
        if self.kind == "sigmoid":
            inside = y.clamp(1e-6, 1 - 1e-6)
            return inside.logit(), inside == y
        if self.kind == "tanh":
            inside = y.clamp(-1 + 1e-6, 1 - 1e-6)
            return inside.atanh(), inside == y
        return y, torch.ones_like(y, dtype=torch.bool)

    def derivative(self, y: Tensor, error: float = 0.0) -> Tensor:
        """The derivative where the activation gives `y`, of which entries have that error."""
        if self.kind == "relu":
            return _is_on(y, error).to(y)
        if self.kind == "leaky-relu":
            return torch.where(y > 0, 1.0, self.slope).to(y)
        if self.kind == "sigmoid":
            return y * (1 - y)
        if self.kind == "tanh":
            return 1 - y**2
        return torch.ones_like(y)

    def bounds(self) -> tuple[float, float]:
        """The least and the most that it gives."""
        least = {"relu": 0.0, "sigmoid": 0.0, "tanh": -1.0}.get(self.kind, -math.inf)
        return least, 1.0 if self.kind in ("sigmoid", "tanh") else math.inf


def _is_on(y: Tensor, error: float) -> Tensor:
    """Where a ReLU that gave `y` was on, as far as that can be told from 0."""
    return y > max(1e-6 * float(y.abs().max()), _SURE * error)


@dataclass(frozen=True)
class Pool:
    """Pooling by windows of `size` (height, width) side by side.

    Rows and columns at the end that fill no window are dropped.
    """

    kind: Literal["none", "max", "mean"] = "none"
    size: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class Link:
    """A layer by its name, what it reads and gives (shapes of one row), what pools and activates that after.

    Pooling by the largest and a rising activation give the same in either order.
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    after: Activation
    pool: Pool = Pool()

    @property
    def passes(self) -> tuple[int, ...]:
        """The shape of what is left after the pooling."""
        (high, wide), (outputs, *sides) = self.pool.size, self.gives
        return (outputs, sides[0] // high, sides[1] // wide) if sides else self.gives


def chain_of(network: nn.Module, input_shape: tuple[int, ...]) -> list[Link]:
    """The links of a network, first to last. Raises AuditError, naming what is in the way, for no chain."""
    try:
        graph = fx.symbolic_trace(network).graph
    except Exception as error:  # whatever tracing cannot follow: the message is all that there is
        raise AuditError(f"the network cannot be traced ({str(error).splitlines()[0]})") from error
    links: list[Link] = []
    before: fx.Node | None = None
    for node in graph.nodes:
        if before is not None and node.all_input_nodes != [before]:
            raise AuditError(f"{node.name!r} reads more than the layer before it; only a chain can be undone")
        _append(links, node, network)
        before = node
    if not links or links[-1].after.kind != "none":
        raise AuditError("the network does not end in a layer without an activation")
    return _shaped(links, network, input_shape)


def _append(links: list[Link], node: fx.Node, network: nn.Module) -> None:
    """Add what a node of the graph does to the chain."""
    if node.op in ("placeholder", "output") or node.target in _SHAPES:
        return
    called: Any = network.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    if isinstance(called, nn.Flatten | nn.Identity):
        return
    if isinstance(called, nn.Linear) or (isinstance(called, nn.Conv2d) and _is_plain(called)):
        links.append(Link(str(node.target), called, (), (), Activation()))
        return
    if (pooling := _POOLINGS.get(type(called) if node.op == "call_module" else called)) and links:
        links.append(_pooled(links.pop(), pooling, called, node))
        return
    kind = _MODULES.get(type(called)) if node.op == "call_module" else _CALLS.get(called)
    if kind is None or not links or links[-1].after.kind != "none":
        raise AuditError(f"{node.name!r} cannot be undone; layers and rising activations can, in turns")
    links.append(replace(links.pop(), after=Activation(kind, _slope(called, node))))


def _pooled(link: Link, kind: Literal["max", "mean"], called: object, node: fx.Node) -> Link:
    """The link with this pooling after it. Raises AuditError for windows that are not side by side."""
    names = ("kernel_size", "stride", "padding")
    given = dict(zip(names, node.args[1:4], strict=False)) | dict(node.kwargs)
    if isinstance(called, nn.MaxPool2d | nn.AvgPool2d):
        given = {name: getattr(called, name) for name in (*names, "ceil_mode")}
        given["dilation"] = getattr(called, "dilation", 1)
    size = _pair(given["kernel_size"])
    step = _pair(given.get("stride") or size)
    plain = _pair(given.get("padding", 0)) == (0, 0) and _pair(given.get("dilation", 1)) == (1, 1)
    if step != size or not plain or given.get("ceil_mode") or len(node.args) > 4:
        raise AuditError(f"{node.name!r} pools by windows that overlap or reach out, which cannot be undone")
    if link.pool.kind != "none" or not isinstance(link.layer, nn.Conv2d):
        raise AuditError(f"{node.name!r} does not pool what a convolution gave; only that can be undone")
    if kind == "mean" and link.after.kind != "none":
        raise AuditError(f"{node.name!r} takes means after an activation, which cannot be undone")
    return replace(link, pool=Pool(kind, size))


def _pair(given: Any) -> tuple[int, int]:
    """The same for both sides where one number is given, or a tuple of one."""
    both = tuple(given) if isinstance(given, tuple | list) else (given,)
    return both[0], both[-1]


def _slope(called: object, node: fx.Node) -> float:
    if isinstance(called, nn.LeakyReLU):
        return float(called.negative_slope)
    given = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
    return float(given) if isinstance(given, int | float) else 0.01


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it pads with zeros by a number, in one group."""
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _shaped(links: list[Link], network: nn.Module, input_shape: tuple[int, ...]) -> list[Link]:
    """The links with what they read and give, noted in a pass of zeros."""
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(layer: nn.Module, read: tuple[Tensor, ...], gave: Tensor) -> None:
            seen[name] = (tuple(read[0].shape[1:]), tuple(gave.shape[1:]))

        return note

    handles = [link.layer.register_forward_hook(noting(link.name)) for link in links]
    with torch.no_grad():
        network(torch.zeros(1, *input_shape, dtype=next(network.parameters()).dtype))
    for handle in handles:
        handle.remove()
    shaped = [replace(link, reads=seen[link.name][0], gives=seen[link.name][1]) for link in links]
    if any(_size(one.passes) != _size(two.reads) for one, two in pairwise(shaped)):
        raise AuditError("something between two layers changes how many values there are")
    return shaped


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
