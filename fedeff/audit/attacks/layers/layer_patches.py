"""What the outputs of a layer read, one by one: the linear map from an input to its patches, and back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from fedeff.audit.attacks.layers.layer_chain import Link

__all__ = ["Patches", "patches_of"]


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches (windows, places, entries) of what a link reads, for each window that is pooled.

    Pooling by the largest has several places a window; the mean one, whose patch is the mean, as without
    pooling. `weight` (outputs, entries) and `bias` (outputs,) make outputs of patches. Dense layers
    have one patch.
    """

    link: Link
    weight: Tensor
    bias: Tensor
    at: Tensor  # (windows, places of the pooling) of the layer's positions

    @property
    def places(self) -> int:
        """Of a window, which of several is the largest is not known."""
        return self.at.shape[1] if self.link.pool.kind == "max" else 1

    @property
    def channels(self) -> int:
        """Of what the link reads."""
        return self.link.reads[0] if isinstance(self.link.layer, nn.Conv2d) else 1

    def of(self, x: Tensor) -> Tensor:
        """The patches of x; linear."""
        layer = self.link.layer
        if isinstance(layer, nn.Linear):
            return x.reshape(1, 1, -1)
        unfolded = F.unfold(x[None], layer.kernel_size, layer.dilation, _pair(layer.padding), layer.stride)[0]
        found = unfolded.T[self.at]
        return found.mean(1, keepdim=True) if self.link.pool.kind == "mean" else found

    def back(self, u: Tensor) -> Tensor:
        """The adjoint of `of`."""
        layer = self.link.layer
        if isinstance(layer, nn.Linear):
            return u.reshape(self.link.reads)
        if self.link.pool.kind == "mean":
            u = u.expand(-1, self.at.shape[1], -1) / self.at.shape[1]
        positions = self.link.gives[1] * self.link.gives[2]
        unfolded = torch.zeros(positions, u.shape[2], dtype=u.dtype)
        unfolded[self.at.flatten()] = u.flatten(0, 1)
        size = (self.link.reads[1], self.link.reads[2])
        args = (layer.kernel_size, layer.dilation, _pair(layer.padding), layer.stride)
        return F.fold(unfolded.T[None], size, *args)[0]

    def outputs(self, x: Tensor) -> Tensor:
        """What the layer makes of the patches of x, without its bias: (windows, places, outputs)."""
        layer = self.link.layer
        if isinstance(layer, nn.Linear):
            return self.of(x) @ self.weight.T
        found = F.conv2d(x[None], layer.weight.detach(), None, *self._as_called(layer))[0]
        placed = found.flatten(1).T[self.at]
        return placed.mean(1, keepdim=True) if self.link.pool.kind == "mean" else placed

    def outputs_back(self, z: Tensor) -> Tensor:
        """The adjoint of `outputs`."""
        layer = self.link.layer
        if isinstance(layer, nn.Linear):
            return self.back(z @ self.weight)
        if self.link.pool.kind == "mean":
            z = z.expand(-1, self.at.shape[1], -1) / self.at.shape[1]
        placed = z.new_zeros(self.link.gives[1] * self.link.gives[2], z.shape[2])
        placed[self.at.flatten()] = z.flatten(0, 1)
        size, given = (1, *self.link.reads), placed.T.reshape(1, *self.link.gives)
        found: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            size, layer.weight.detach(), given, *self._as_called(layer)
        )
        return found[0]

    @staticmethod
    def _as_called(layer: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, ...]]:
        return layer.stride, _pair(layer.padding), layer.dilation


def _pair(padding: str | tuple[int, ...]) -> tuple[int, int]:
    assert not isinstance(padding, str)
    return padding[0], padding[1]


def patches_of(link: Link) -> Patches:
    """The patches of a link."""
    weight = link.layer.weight.detach().flatten(1)
    bias = weight.new_zeros(len(weight)) if link.layer.bias is None else link.layer.bias.detach()
    if isinstance(link.layer, nn.Linear):
        return Patches(link, weight, bias, torch.zeros(1, 1, dtype=torch.int64))
    (high, wide), (height, width) = link.pool.size, link.gives[1:]
    numbers = torch.arange(height * width).reshape(height, width)
    whole = numbers[: height // high * high, : width // wide * wide]
    cut = whole.reshape(height // high, high, width // wide, wide).permute(0, 2, 1, 3)
    return Patches(link, weight, bias, cut.reshape(-1, high * wide))
