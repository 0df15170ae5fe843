"""ResNets for small images, normalised by groups so that clients share no batch statistics."""

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.models.units import Slice, Units

__all__ = ["ResNet20", "SmallResNet20"]

_BLOCKS = 3


class ResNet20(nn.Module):
    """Three stages of three residual blocks (He et al., arXiv:1512.03385, section 4.2).

    GroupNorm (Wu & He, arXiv:1803.08494) stands in for BatchNorm, whose running statistics do not
    average over non-IID clients (Hsieh et al., arXiv:1910.00189). `widths` are the stages' channels,
    each a multiple of `groups`; `stem_stride` is that of the first convolution. By default 269,722
    parameters for (3, 32, 32) and 10 classes: not for quick runs on a CPU.
    """

    def __init__(
        self,
        classes: int,
        input_shape: tuple[int, ...],
        *,
        widths: tuple[int, int, int] = (16, 32, 64),
        groups: int = 8,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], widths[0], 3, stride=stem_stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, widths[0])
        blocks, inside = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(_BLOCKS):
                blocks.append(_Block(inside, width, stride=2 if stage and not block else 1, groups=groups))
                inside = width
        self.stages = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        x = self.stages(F.relu_(self.norm(self.conv(x))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits

    def units(self) -> tuple[Units, ...]:
        """The filters inside each block; those on the shortcuts' way keep every stage as wide as it is."""
        found = []
        for block in self.blocks():
            made = tuple(Slice(f"{block}.{key}", 0) for key in ("conv1.weight", "norm1.weight", "norm1.bias"))
            reader = Slice(f"{block}.conv2.weight", 1)
            found.append(Units(f"{block}.conv1", "filter", made, (reader,), normalised=True))
        return tuple(found)

    def blocks(self) -> tuple[str, ...]:
        """The residual blocks that are there."""
        return tuple(
            f"stages.{place}" for place, block in enumerate(self.stages) if isinstance(block, _Block)
        )


class SmallResNet20(ResNet20):
    """ResNet-20 at half the width whose first convolution halves the image: many layers, none of them large.

    For studies of layer-wise aggregation on a CPU: 67,906 parameters
    for (1, 28, 28), of which the largest layer holds a seventh.
    """

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__(classes, input_shape, widths=(8, 16, 32), groups=4, stem_stride=2)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a parameter-free shortcut (option A of the paper)."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outside)
        self.stride, self.added = stride, outside - inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu_(self.norm1(self.conv1(x)))))
        return F.relu(y + _shortcut(x, self.stride, self.added))

    def is_silent(self, threshold: float) -> bool:
        last = (self.norm2.weight, self.norm2.bias)
        return all(float(values.detach().abs().amax()) <= threshold for values in last)

    def bypassed(self) -> nn.Module:
        return _Shortcut(self.stride, self.added)


class _Shortcut(nn.Module):
    """What is left of a block that adds nothing."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The block's input has been rectified.
        return _shortcut(x, self.stride, self.added)


def _shortcut(x: torch.Tensor, stride: int, added: int) -> torch.Tensor:
    """Every so many pixels, and channels of zeros on both sides."""
    thinned = x[:, :, ::stride, ::stride]
    return F.pad(thinned, (0, 0, 0, 0, added // 2, added - added // 2)) if added else thinned
