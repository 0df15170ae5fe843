"""ResNet-20 for small images, normalised by groups so that clients share no batch statistics."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ResNet20"]

_WIDTHS = (16, 32, 64)
_BLOCKS = 3
_GROUPS = 8


class ResNet20(nn.Module):
    """Three stages of three residual blocks (He et al., arXiv:1512.03385, section 4.2).

    GroupNorm (Wu & He, arXiv:1803.08494) stands in for BatchNorm, whose running statistics do not
    average over non-IID clients (Hsieh et al., arXiv:1910.00189). 269,722 parameters for (3, 32, 32)
    and 10 classes. Not for quick runs on a CPU: a step costs several of the CNN's.
    """

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], _WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, _WIDTHS[0])
        before = (_WIDTHS[0], *_WIDTHS)
        self.stages = nn.Sequential(
            *(
                _Block(before[stage] if block == 0 else width, width, stride=2 if stage and not block else 1)
                for stage, width in enumerate(_WIDTHS)
                for block in range(_BLOCKS)
            )
        )
        self.fc = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        x = self.stages(F.relu_(self.norm(self.conv(x))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions beside a parameter-free shortcut (option A of the paper)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(_GROUPS, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(_GROUPS, outside)
        self.stride, self.added = stride, outside - inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu_(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(y + shortcut)
