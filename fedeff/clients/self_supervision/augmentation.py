"""Random views of images, drawn for a whole batch at once."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.core.errors import ConfigError

__all__ = ["Augmentation"]

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Augmentation:
    """A random crop blown up to the image's size, a flip, a blur, brightness, contrast and a hole.

    Of every image by itself:

    - the crop holds a share of the area from U(`least_area`, 1), at an aspect ratio log-uniform within
      `aspect` times the image's own and its inverse, anywhere inside;
    - with chance `flip` left and right change places;
    - pixels are weighted by a tent of one pixel (bilinear interpolation), with chance `blur` of up to
      two in the crop's size;
    - contrast, about the image's mean, and brightness are multiplied by U(1 - c, 1 + c) of their own `c`;
    - with chance `erasing` a rectangle, whose sides are U(0.1, 0.4) of the image's, becomes 0.

    For images of one or more channels with values in [0, 1], in which they stay. No colours are changed
    apart from each other: the images that fedeff brings have none.
    """

    least_area: float = 0.5
    aspect: float = 4 / 3
    flip: float = 0.5
    blur: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1:
            raise ConfigError(f"least_area is {self.least_area}; it must be above 0 and at most 1")
        if not self.aspect >= 1:
            raise ConfigError(f"aspect is {self.aspect}; it must be at least 1")
        for name in ("flip", "blur", "brightness", "contrast", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    def __call__(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Views (n, channels, height, width) of such images; the same for the same draws."""
        draws = torch.from_numpy(rng.random((13, len(x)), np.float32)).to(x.device)
        x = self._cropped(x, draws[:7])
        x = self._lit(x, draws[7:9])
        return self._with_holes(x, draws[9:]) if self.erasing else x

    def _cropped(self, x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Crops at the image's size, by one matrix for the rows of each image and one for its columns."""
        area, aspect, top, left, mirrored, blurred, width = draws
        side = (self.least_area + (1 - self.least_area) * area).sqrt()
        stretch = ((aspect - 0.5) * math.log(self.aspect)).exp()
        tent = 1 + torch.where(blurred < self.blur, width, 0)
        rows = _resampling(x.shape[2], (side * stretch).clamp(max=1), top, tent)
        columns = _resampling(x.shape[3], (side / stretch).clamp(max=1), left, tent)
        turned = (mirrored < self.flip)[:, None, None]
        columns = torch.where(turned, columns.flip(1), columns)
        # (n, 1, height, height) @ (n, channels, height, width) @ (n, 1, width, width)
        cropped: torch.Tensor = rows[:, None] @ x @ columns.mT[:, None]
        return cropped

    def _lit(self, x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        spread = torch.tensor([[self.contrast], [self.brightness]], device=x.device)
        contrast, brightness = (1 + spread * (2 * draws - 1))[:, :, None, None, None]
        middle = x.mean((1, 2, 3), keepdim=True)
        lit: torch.Tensor = ((x - middle) * contrast + middle) * brightness
        return lit.clamp_(0, 1)

    def _with_holes(self, x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        chosen, size, top, left = draws
        share = 0.1 + 0.3 * size
        rows = _inside(x.shape[2], share, top)[:, None, :, None]
        columns = _inside(x.shape[3], share, left)[:, None, None, :]
        return x.masked_fill(rows & columns & (chosen < self.erasing)[:, None, None, None], 0)


def _resampling(size: int, share: torch.Tensor, place: torch.Tensor, tent: torch.Tensor) -> torch.Tensor:
    """Matrices (n, size, size) that make a line of `size` pixels out of a piece of such a line.

    The piece is a `share` of the line and begins at `place` of what is left; row i weighs the pixels
    around the i-th pixel's place in it, by a tent that is 0 at a distance of `tent` pixels.
    """
    pixels = torch.arange(size, dtype=torch.float32, device=share.device)
    begin = place * (1 - share) * size
    centres = ((pixels + 0.5) * share[:, None] + begin[:, None] - 0.5).clamp(0, size - 1)
    distances = (centres[:, :, None] - pixels).abs_()
    return F.normalize(distances.div_(tent[:, None, None]).neg_().add_(1).relu_(), p=1, dim=2)


def _inside(size: int, share: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Which pixels (n, size) of a line lie in a piece of it."""
    pixels = torch.arange(size, device=share.device) + 0.5
    begin = place * (1 - share) * size
    return (pixels >= begin[:, None]) & (pixels < (begin + share * size)[:, None])
