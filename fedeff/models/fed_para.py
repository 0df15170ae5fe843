"""FedPara: weights as the product, entry by entry, of two matrices of low rank (arXiv:2108.06098)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.models.composed import Composed, Made, composable, put_in
from fedeff.models.recurrent import Gru, Lstm

__all__ = ["FedPara", "HadamardProduct", "entries_at", "highest_rank", "lowest_rank"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class HadamardProduct:
    """`(X1 Y1^T) * (X2 Y2^T)` with `*` entry by entry; of rank up to R^2 where the factors have rank R.

    Proposition 1 for matrices (m, n): X (m, R), Y (n, R). Proposition 3 for kernels (O, I, height, width):
    each factor is a core T (R, R, height, width) times X (O, R) and Y (I, R) in its first two dimensions.
    With `personal` it is `W1 * (W2 + 1)`, where W2 belongs to one client (pFedPara, section 2.3).
    """

    kernel: bool
    personal: bool = False

    def weight(self, arrays: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight of arrays `x1`, `y1`, `x2`, `y2` and, for a kernel, `t1`, `t2`."""
        second = self.factor(arrays, "2")
        return self.factor(arrays, "1") * (second + 1 if self.personal else second)

    def factor(self, arrays: Mapping[str, torch.Tensor], which: str) -> torch.Tensor:
        """The matrix or kernel that the arrays of this factor, "1" or "2", make."""
        x, y = arrays[f"x{which}"], arrays[f"y{which}"]
        if not self.kernel:
            return x @ y.T
        mixed = torch.einsum("or,rskl->oskl", x, arrays[f"t{which}"])
        return torch.einsum("is,oskl->oikl", y, mixed)


@dataclass(frozen=True)
class FedPara:
    """Dense, convolutional and recurrent layers whose weights are Hadamard products of low-rank factors.

    A layer's rank is `(1 - ratio) * lowest_rank + ratio * highest_rank` (the paper's gamma), rounded
    down; or `rank` for all layers, where that is not 0, as far as it saves anything. From the lowest
    rank on a product can have full rank. Layers that would not be smaller stay as they are, as do biases,
    norms and embeddings. With `personal` the second factors never leave a client: half of the bytes, and a
    model for each client, whose second factors begin at zero.

    The mean of clients' factors is not the mean of their weights: with many local steps on unlike data
    accuracy falls sooner than with plain layers. Not for models whose layers are small: the lowest rank
    of a layer of 10 outputs saves nothing to speak of.
    """

    ratio: float = 0.0  # gamma, in [0, 1]
    rank: int = 0
    personal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"rank-ratio is {self.ratio!r}; it must be from 0 to 1")
        if self.rank < 0:
            raise ConfigError(f"rank is {self.rank!r}; it must be at least 1, or 0 for that of rank-ratio")

    def apply(self, module: nn.Module, seed: int = 0) -> nn.Module:
        """A copy of a module with new weights, drawn from `seed`, where layers become smaller.

        They have the variance 2 / fan-in (He et al., arXiv:1502.01852, eq. 10), in recurrent layers that
        of the layer they stand for.

        Raises:
            ConfigError: if no layer becomes smaller.

        >>> from fedeff.models import build
        >>> small = FedPara().apply(build("cnn"))
        >>> sum(parameter.numel() for parameter in small.parameters())
        12706
        """
        made, chosen = copy.deepcopy(module), False
        for name, layer in composable(made).items():
            weights = self._weights(name, layer, seed)
            if weights:
                made, chosen = put_in(made, name, Composed(layer, weights)), True
        if not chosen:
            raise ConfigError(
                f"no layer of {type(module).__name__} has fewer parameters at "
                + (f"rank {self.rank}; take a lower rank" if self.rank else "its lowest rank; set a rank")
                + ", or leave FedPara out"
            )
        return made

    def rank_of(self, shape: Shape) -> int:
        """The rank of a weight of this shape; 0 where it stays whole."""
        low, high = lowest_rank(shape), highest_rank(shape)
        if self.rank:
            return min(self.rank, high)
        return int((1 - self.ratio) * low + self.ratio * high) if low <= high else 0

    def _weights(self, name: str, layer: nn.Module, seed: int) -> dict[str, Made]:
        made = {}
        for own, weight in layer.named_parameters(recurse=False):
            rank = self.rank_of(tuple(weight.shape)) if weight.dim() > 1 else 0
            if rank:
                rng = generator(seed, purpose=f"fedpara {name}.{own}")
                variance = (
                    float(weight.detach().var()) if isinstance(layer, Gru | Lstm) else 2 / weight[0].numel()
                )
                shape = tuple(weight.shape)
                made[own] = (_drawn_personal if self.personal else _drawn)(shape, rank, variance, rng)
        return made


def lowest_rank(shape: Shape) -> int:
    """The lowest rank at which the product can have full rank (corollary 1): R^2 at least that rank.

    A kernel is to have full rank unfolded by its filters as well as by its channels.

    >>> lowest_rank((100, 50)), lowest_rank((256, 256, 3, 3))
    (8, 16)
    """
    outputs, inputs, *_ = shape
    window = math.prod(shape[2:])
    full = max(min(outputs, inputs * window), min(inputs, outputs * window))
    return math.isqrt(full - 1) + 1


def highest_rank(shape: Shape) -> int:
    """The highest rank at which the factors have fewer entries than the weight; 0 if none has.

    >>> highest_rank((100, 50)), highest_rank((8, 1, 3, 3))
    (16, 1)
    """
    rank = 0
    while entries_at(shape, rank + 1) < math.prod(shape):
        rank += 1
    return rank


def entries_at(shape: Shape, rank: int) -> int:
    """Entries of the factors of a weight: `2 R (m + n)`, of a kernel `2 R (O + I + R height width)`.

    >>> entries_at((256, 256, 3, 3), 16)  # of 589,824
    20992
    """
    core = rank * math.prod(shape[2:]) if len(shape) > 2 else 0
    return 2 * rank * (shape[0] + shape[1] + core)


def _drawn(shape: Shape, rank: int, variance: float, rng: np.random.Generator) -> Made:
    """Normal factors, scaled alike so that the entries of their product have the variance."""
    drawn = _normal(shape, rank, "1", rng) | _normal(shape, rank, "2", rng)
    product = HadamardProduct(kernel=len(shape) > 2)
    return Made(product, _scaled(drawn, variance, product.weight(drawn)))


def _drawn_personal(shape: Shape, rank: int, variance: float, rng: np.random.Generator) -> Made:
    """A first factor whose entries have the variance, and a second one that is zero."""
    shared, own = _normal(shape, rank, "1", rng), _normal(shape, rank, "2", rng)
    product = HadamardProduct(kernel=len(shape) > 2, personal=True)
    personal = {name: (values / math.sqrt(rank)).float() for name, values in own.items()}
    personal["x2"].zero_()
    return Made(product, _scaled(shared, variance, product.factor(shared, "1")), personal=personal)


def _normal(shape: Shape, rank: int, which: str, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    sizes: dict[str, Shape] = {"x": (shape[0], rank), "y": (shape[1], rank)}
    if len(shape) > 2:
        sizes["t"] = (rank, rank, *shape[2:])
    return {f"{name}{which}": torch.from_numpy(rng.standard_normal(size)) for name, size in sizes.items()}


def _scaled(
    drawn: dict[str, torch.Tensor], variance: float, product: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Arrays, each as many times larger, so that what is their product has the variance about zero."""
    scale = (variance / float(product.square().mean())) ** (0.5 / len(drawn))
    return {name: (scale * values).float() for name, values in drawn.items()}
