"""The LeNet-like network of the simulation benchmarks."""

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.core.errors import ConfigError
from fedeff.models.units import Kind, Slice, Units

__all__ = ["LeNet"]

_KERNEL = 5
_UNPADDED_SIDE = 20  # from here on two unpadded 5x5 convolutions and poolings leave at least 2x2


class LeNet(nn.Module):
    """Two 5x5 convolutions of 16 and 32 channels, each pooled by 2, then dense layers of 64 and `classes`.

    46,730 parameters for (1, 28, 28) and 10 classes. Images under 20 pixels are padded so that
    digits of 8x8 fit; under 4 pixels there is nothing left to pool (ConfigError).
    """

    def __init__(self, classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise ConfigError(f"model 'cnn' needs images of at least 4x4 pixels, got {height}x{width}")
        padding = 0 if min(height, width) >= _UNPADDED_SIDE else _KERNEL // 2
        self.conv1 = nn.Conv2d(channels, 16, _KERNEL, padding=padding)
        self.conv2 = nn.Conv2d(16, 32, _KERNEL, padding=padding)
        self._pixels = _side(height, padding) * _side(width, padding)  # of a channel once it is flattened
        self.fc1, self.fc2 = nn.Linear(32 * self._pixels, 64), nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        # Pooling before the rectifier gives the same numbers and rectifies a quarter of them.
        x = F.relu_(F.max_pool2d(self.conv1(x), 2))
        x = F.relu_(F.max_pool2d(self.conv2(x), 2))
        logits: torch.Tensor = self.fc2(F.relu_(self.fc1(x.flatten(1))))
        return logits

    def units(self) -> tuple[Units, ...]:
        """The filters of both convolutions, and the hidden units."""
        readers = (
            Slice("conv2.weight", 1),
            Slice("fc1.weight", 1, span=self._pixels),
            Slice("fc2.weight", 1),
        )
        kinds: tuple[Kind, ...] = ("filter", "filter", "neuron")
        return tuple(
            Units(name, kind, (Slice(f"{name}.weight", 0), Slice(f"{name}.bias", 0)), (reader,))
            for name, kind, reader in zip(("conv1", "conv2", "fc1"), kinds, readers, strict=True)
        )

    def blocks(self) -> tuple[str, ...]:
        """None: there are no shortcuts."""
        return ()


def _side(side: int, padding: int) -> int:
    for _ in range(2):
        side = (side + 2 * padding - _KERNEL + 1) // 2
    return side
