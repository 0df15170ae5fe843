"""Convolutions of which outer rows or columns of the kernel were cut away."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.core.errors import ConfigError

__all__ = ["CroppedConv2d", "Window", "can_crop", "window_of"]


class Window(NamedTuple):
    """The rows and columns of a kernel that are left: from `top` and `left`, so many."""

    top: int
    left: int
    height: int
    width: int

    def within(self, outer: "Window") -> "Window":
        """The same window by the rows and columns in which `outer` was cut."""
        return Window(outer.top + self.top, outer.left + self.left, self.height, self.width)


class CroppedConv2d(nn.Conv2d):
    """A convolution by a part of a kernel, equal to that by the whole kernel with zeros around the part.

    The input is padded, or cropped, so that the output keeps its size. Same keys as `torch.nn.Conv2d`.
    """

    def __init__(self, conv: nn.Conv2d, window: Window) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (window.height, window.width),
            stride=_two(conv.stride),
            bias=conv.bias is not None,
            device=conv.weight.device,
        )
        self.margins = _margins(conv, window)
        rows, columns = (
            slice(window.top, window.top + window.height),
            slice(window.left, window.left + window.width),
        )
        with torch.no_grad():
            self.weight.copy_(conv.weight[:, :, rows, columns])
            if conv.bias is not None and self.bias is not None:
                self.bias.copy_(conv.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # the name that nn.Conv2d gives it
        """Feature maps (n, out_channels, height, width)."""
        padded = F.pad(input, self.margins) if any(self.margins) else input
        return super().forward(padded)


def can_crop(conv: nn.Module) -> bool:
    """Whether a module is a convolution that `CroppedConv2d` can stand in for."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and _two(conv.dilation) == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def window_of(conv: nn.Conv2d, threshold: float) -> Window:
    """The smallest part of the kernel outside of which no shape fibre is above the threshold.

    A shape fibre is `W[:, c, m, k]` (dissertation of W. Wen, Duke 2019, section 2.2.1); it is measured by
    its root mean square. One entry is always left.
    """
    scale = conv.weight.detach().double().square().mean(0).sqrt().amax(0)  # (height, width)
    (rows,) = torch.nonzero(scale.amax(1) > threshold, as_tuple=True)
    (columns,) = torch.nonzero(scale.amax(0) > threshold, as_tuple=True)
    if not len(rows):
        return Window(scale.shape[0] // 2, scale.shape[1] // 2, 1, 1)
    top, left = int(rows[0]), int(columns[0])
    return Window(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def _margins(conv: nn.Conv2d, window: Window) -> tuple[int, int, int, int]:
    """Zeros to add left, right, above and below the input; a negative number cuts off so many pixels."""
    height, width = _two(conv.kernel_size)
    if not (
        window.top >= 0
        and window.left >= 0
        and 1 <= window.height <= height - window.top
        and 1 <= window.width <= width - window.left
    ):
        raise ConfigError(
            f"{window} is no part of a kernel of {height}x{width}; the structure was made for another model"
        )
    left, right, above, below = _padding(conv)
    return (
        left - window.left,
        right - (width - window.left - window.width),
        above - window.top,
        below - (height - window.top - window.height),
    )


def _padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """What is added to the input left, right, above and below."""
    if isinstance(conv, CroppedConv2d):
        return conv.margins
    down, across = _two(conv.padding)
    return across, across, down, down


def _two(values: object) -> tuple[int, int]:
    """A pair that torch types as a tuple of any length, or as text."""
    down, across = cast(tuple[int, int], values)
    return down, across
