"""SLIM-QN: second-order steps from averaged weights and gradients, layer by layer.

Niu, Fabian, Lee, Soltanolkotabi & Avestimehr, "mL-BFGS", arXiv:2307.13744 (SLIM-QN in its first
version): L-BFGS whose pairs are differences of exponential averages, which carry little of a
batch's noise, and whose curvature is kept within bounds.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedeff.clients.training import Array
from fedeff.clients.weights import copy_into
from fedeff.core.layers import group_layers

__all__ = ["LayerCurvature", "Pair", "damped", "two_loop"]

_HIGH = 1.5  # a pair's curvature s'y / s's is at most this
_AVERAGES = 4  # arrays before the pairs: averages of weights and gradients, now and at the last pair


@dataclass(frozen=True)
class Pair:
    """How weights (`s`) and gradient (`y`) of a layer have moved, as vectors, with their products."""

    s: torch.Tensor
    y: torch.Tensor
    sy: float
    yy: float

    @classmethod
    def of(cls, s: torch.Tensor, y: torch.Tensor) -> "Pair":
        """The pair with its products."""
        return cls(s, y, float(s @ y), float(y @ y))


def damped(s: torch.Tensor, y: torch.Tensor, low: float) -> torch.Tensor:
    """`phi y + (1 - phi) s`, whose curvature along `s` lies within [low, 1.5]; `low` is in (0, 1).

    `phi` is 1 where that of `y` does. Where `s` is zero there is no curvature, and `y` comes back.
    """
    squared = float(s @ s)
    if squared == 0:
        return y
    curvature = float(s @ y) / squared
    if curvature < low:
        phi = (1 - low) / (1 - curvature)
    elif curvature > _HIGH:
        phi = (_HIGH - 1) / (curvature - 1)
    else:
        return y
    return phi * y + (1 - phi) * s


def two_loop(gradient: torch.Tensor, pairs: Sequence[Pair]) -> torch.Tensor:
    """The inverse Hessian of L-BFGS times the gradient (Nocedal & Wright, algorithm 7.4).

    `pairs` come oldest first; the recursion begins with `s'y / y'y` of the latest. A pair without
    positive curvature, which damping leaves only where nothing moved, is passed over; without pairs
    the gradient comes back.
    """
    used = [pair for pair in pairs if pair.sy > 0 and pair.yy > 0]
    if not used:
        return gradient
    direction, shares = gradient.clone(), []
    for pair in reversed(used):
        share = float(pair.s @ direction) / pair.sy
        direction.sub_(pair.y, alpha=share)
        shares.append(share)
    direction.mul_(used[-1].sy / used[-1].yy)
    for pair, share in zip(used, reversed(shares), strict=True):
        direction.add_(pair.s, alpha=share - float(pair.y @ direction) / pair.sy)
    return direction


class LayerCurvature:
    """Turns the gradients of one client into quasi-Newton directions, each layer by itself.

    `keys` name the parameters, and so the layers that they belong to. Every step the averages move
    by `beta`; every `interval` steps, from the second time on, they give each layer a pair, damped to
    a curvature of at least `damping`, of which the last `history` count. Until then directions are
    the gradients. The averages begin at the first weights and gradients, with weights
    `(1 - beta) / (1 - beta^t)` as Adam corrects its means: averages that began at zero would give
    first pairs that tell how large the weights are.
    """

    def __init__(
        self,
        keys: Sequence[str],
        parameters: Sequence[torch.Tensor],
        *,
        history: int,
        interval: int,
        beta: float,
        damping: float,
    ) -> None:
        places = {key: place for place, key in enumerate(keys)}
        self._blocks = [[places[key] for key in group] for group in group_layers(keys).values()]
        self._keys, self._interval, self._beta = tuple(keys), interval, beta
        self._damping = damping
        self._states = [_Block(torch.zeros_like(_flat(block, parameters)), history) for block in self._blocks]
        self._shapes = [parameter.shape for parameter in parameters]

    def directions(
        self, parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], step: int
    ) -> list[torch.Tensor]:
        """The directions against which the parameters move, in their shapes; `step` counts from 1."""
        weight = (1 - self._beta) / (1 - self._beta**step)
        found = list(gradients)
        for block, state in zip(self._blocks, self._states, strict=True):
            gradient = _flat(block, gradients)
            state.average(_flat(block, parameters), gradient, weight, first=step == 1)
            if step % self._interval == 0:
                state.turn(self._damping if step > self._interval else None)
            for place, piece in self._split(block, two_loop(gradient, state.pairs)):
                found[place] = piece
        return found

    def resume(self, arrays: Sequence[Mapping[str, Array]]) -> None:
        """Go on from what `gathered` gave, or from nothing; of more pairs than `history` the latest count."""
        if not arrays:
            return
        for block, state in zip(self._blocks, self._states, strict=True):
            vectors = []
            for values in arrays:
                vector = torch.empty_like(state.averages[0])
                for place, piece in self._split(block, vector):
                    copy_into(piece, values[self._keys[place]])
                vectors.append(vector)
            state.averages = vectors[:_AVERAGES]
            state.pairs.extend(map(Pair.of, vectors[_AVERAGES::2], vectors[_AVERAGES + 1 :: 2]))

    def gathered(self) -> list[dict[str, Array]]:
        """The averages and then the pairs, oldest first, by parameter; not copied."""
        states = [state.vectors() for state in self._states]
        found: list[dict[str, Array]] = []
        for vectors in zip(*states, strict=True):
            pieces: dict[int, torch.Tensor] = {}
            for block, vector in zip(self._blocks, vectors, strict=True):
                pieces |= self._split(block, vector)
            found.append({key: pieces[place].cpu().numpy() for place, key in enumerate(self._keys)})
        return found

    def _split(self, block: Sequence[int], vector: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """A layer's parameters by place, as views of its vector."""
        shapes = [self._shapes[place] for place in block]
        pieces = torch.split(vector, [shape.numel() for shape in shapes])
        return [(place, piece.view(shape)) for place, piece, shape in zip(block, pieces, shapes, strict=True)]


class _Block:
    """One layer's averages (weights, gradient; the same at the last pair) and its pairs, as vectors."""

    def __init__(self, zeros: torch.Tensor, history: int) -> None:
        self.averages = [zeros.clone() for _ in range(_AVERAGES)]
        self.pairs: deque[Pair] = deque(maxlen=history)

    def average(self, weights: torch.Tensor, gradient: torch.Tensor, weight: float, *, first: bool) -> None:
        self.averages[0].lerp_(weights, weight)
        self.averages[1].lerp_(gradient, weight)
        if first:
            self._remember()

    def turn(self, damping: float | None) -> None:
        """Take the pair since the last turn, but for the first, which has no damping; count from here."""
        now_weights, now_gradient, then_weights, then_gradient = self.averages
        if damping is not None:
            s, y = now_weights - then_weights, now_gradient - then_gradient
            self.pairs.append(Pair.of(s, damped(s, y, damping)))
        self._remember()

    def vectors(self) -> list[torch.Tensor]:
        """The averages, then s and y of each pair."""
        return [*self.averages, *(vector for pair in self.pairs for vector in (pair.s, pair.y))]

    def _remember(self) -> None:
        self.averages[2].copy_(self.averages[0])
        self.averages[3].copy_(self.averages[1])


def _flat(block: Sequence[int], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[place].detach().reshape(-1) for place in block])
