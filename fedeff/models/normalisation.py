"""GroupNorm over channels of which some were cut away."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PartialGroupNorm"]


class PartialGroupNorm(nn.Module):
    """What `torch.nn.GroupNorm` gives for the channels that are left, had the others been zero.

    Channels that were cut still count in the mean and the variance of their group (Wu & He,
    arXiv:1803.08494), so that nothing changes for their neighbours. `members` names the group of each
    channel that is left, `group_size` the channels that a group had. Same keys as GroupNorm's. Groups
    that lack none are normalised by torch itself; otherwise about half as fast a channel.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, norm: "nn.GroupNorm | PartialGroupNorm", kept: Sequence[int]) -> None:
        super().__init__()
        members, self.group_size = _groups_of(norm)
        self.members = tuple(members[channel] for channel in kept)
        self.eps: float = norm.eps
        rows = torch.tensor(list(kept), dtype=torch.long, device=norm.weight.device)
        self.weight = nn.Parameter(norm.weight.detach().index_select(0, rows))
        self.bias = nn.Parameter(norm.bias.detach().index_select(0, rows))
        groups = sorted(set(self.members))
        counts = [self.members.count(group) for group in groups]
        self._whole = len(groups) if set(counts) == {self.group_size} else 0
        self._places = tuple(groups.index(group) for group in self.members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised (n, channels, height, width)."""
        if self._whole:
            return F.group_norm(x, self._whole, self.weight, self.bias, self.eps)
        belongs = F.one_hot(torch.tensor(self._places, device=x.device)).to(x.dtype)  # (channels, groups)
        pixels = x.shape[2] * x.shape[3]
        count = self.group_size * pixels
        mean = x.sum((2, 3)) @ belongs / count  # (n, groups)
        apart = x - (mean @ belongs.T)[:, :, None, None]
        absent = count - belongs.sum(0) * pixels  # zeros, each so far from the mean as the mean is from 0
        variance = (apart.square().sum((2, 3)) @ belongs + absent * mean.square()) / count
        scale = torch.rsqrt(variance + self.eps) @ belongs.T
        return apart * (scale * self.weight)[:, :, None, None] + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """The channels that are left, by group."""
        return f"members={self.members}, group_size={self.group_size}"


def _groups_of(norm: "nn.GroupNorm | PartialGroupNorm") -> tuple[tuple[int, ...], int]:
    """The group of each channel, and how many channels a group had when none was cut."""
    if isinstance(norm, PartialGroupNorm):
        return norm.members, norm.group_size
    size = norm.num_channels // norm.num_groups
    return tuple(channel // size for channel in range(norm.num_channels)), size
