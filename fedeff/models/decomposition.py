"""A convolution as two: a few basis filters, and a 1x1 convolution that mixes what they see.

Cross-filter low-rank approximation (dissertation of W. Wen, Duke 2019, section 3.1, eq. 3.1).
"""

import copy

import torch
from torch import nn

from fedeff.core.errors import ConfigError

__all__ = ["DecomposedConv2d", "average_rank_ratio", "convolutions", "rank_of", "saving_ranks"]

ERROR = 0.05  # of the filters' energy that may be lost; the dissertation's


class DecomposedConv2d(nn.Module):
    """The nearest convolution of `rank` basis filters to a given one, in the sense of least squares.

    Its output is that of `mix(basis(x))`, equal to the given one at full rank up to rounding. Arrays
    are `basis.weight` (rank, channels, height, width), `mix.weight` (filters, rank, 1, 1) and, where
    the convolution had one, `mix.bias`. Training goes on as for any layer.
    """

    def __init__(self, conv: nn.Conv2d, rank: int, *, most: int | None = None) -> None:
        """`most` is the highest rank that is taken, the convolution's own if None; what it lacks is zero."""
        super().__init__()
        filters = conv.weight.detach().flatten(1)
        full = most or min(filters.shape)
        if not 1 <= rank <= full or conv.groups != 1:
            raise ConfigError(
                f"a convolution of {filters.shape[0]} filters in {conv.groups} group(s) cannot have rank "
                f"{rank}; expected 1 to {full} in one group"
            )
        self.basis = copy.deepcopy(conv)  # with its stride, its padding and, if cropped, its margins
        self.basis.out_channels, self.basis.bias = rank, None
        self.mix = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None).to(conv.weight)
        # Both factors take the root of the singular values, so that both train at one step size.
        left, singular, right = torch.linalg.svd(filters.double(), full_matrices=False)
        root = singular[:rank].sqrt()
        rows = filters.new_zeros(rank, filters.shape[1])
        rows[: len(root)] = (root[:, None] * right[:rank]).to(filters.dtype)
        self.basis.weight = nn.Parameter(rows.view(rank, *conv.weight.shape[1:]))
        with torch.no_grad():
            self.mix.weight.zero_()[:, : len(root)] = (left[:, :rank] * root)[:, :, None, None]
            if conv.bias is not None and self.mix.bias is not None:
                self.mix.bias.copy_(conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature maps (n, filters, height, width)."""
        mixed: torch.Tensor = self.mix(self.basis(x))
        return mixed


def rank_of(weight: torch.Tensor, error: float = ERROR) -> int:
    """The fewest basis filters whose span leaves at most the share `error` of the filters' energy.

    Principal components of the filters, `e_M / e_0 <= error` with `e_M` the sum of the eigenvalues of
    `W W^T` after the first M (section 3.3.2; uncentred, as printed there, so PCA and SVD are one). `weight`
    is (filters, ...). Filters that are all zero have rank 1.
    """
    energy = torch.linalg.svdvals(weight.detach().double().flatten(1)).square()
    left = energy.sum() - energy.cumsum(0)  # after the first 1, 2, ...
    enough = torch.nonzero(left <= error * energy.sum() + 1e-12 * energy.sum())
    return int(enough[0]) + 1


def convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions of a module by name; not those inside of one that is decomposed."""
    inside = tuple(f"{name}." for name, one in module.named_modules() if isinstance(one, DecomposedConv2d))
    return {
        name: one
        for name, one in module.named_modules()
        if isinstance(one, nn.Conv2d) and not name.startswith(inside)
    }


def average_rank_ratio(module: nn.Module, error: float = ERROR) -> float:
    """The mean over convolutions of rank over number of filters, as the dissertation's table 3.2 gives it.

    NaN for a module without convolutions.
    """
    found = convolutions(module).values()
    ratios = [rank_of(conv.weight, error) / conv.out_channels for conv in found]
    return sum(ratios) / len(ratios) if ratios else float("nan")


def saving_ranks(module: nn.Module, error: float = ERROR) -> dict[str, int]:
    """The ranks by name of those convolutions that cost less decomposed, at this error.

    They do where `M < N CHW / (CHW + N)` for N filters of CHW entries: in arithmetic and in parameters.
    """
    chosen = {}
    for name, conv in convolutions(module).items():
        filters, entries = conv.weight.flatten(1).shape
        rank = rank_of(conv.weight, error)
        if conv.groups == 1 and rank * (entries + filters) < filters * entries:
            chosen[name] = rank
    return chosen
