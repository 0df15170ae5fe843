"""Networks that are not the built-in app's: with smooth activations, as most of the literature attacks."""

import torch
from torch import nn

__all__ = ["SmoothNet"]


class SmoothNet(nn.Module):
    """Two 5x5 convolutions of `width` channels with sigmoids, the first with stride 2, and a dense layer.

    After the network of Zhu et al. (arXiv:1906.08935, section 4.1), which is LeNet with sigmoids for ReLUs
    and strides for pooling; one convolution less. Weights and biases are drawn evenly from
    [-`spread`, `spread`], 0.5 as in the code that they published; 0: as torch draws them, under which the
    sigmoids are all but linear, and rows of a batch can hardly be told apart.
    """

    def __init__(
        self, channels: int = 1, side: int = 8, classes: int = 10, width: int = 12, spread: float = 0.5
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 5, padding=2)
        self.fc = nn.Linear(width * (side // 2) ** 2, classes)
        for values in self.parameters() if spread else ():
            nn.init.uniform_(values, -spread, spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, channels, side, side)."""
        x = torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x))))
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits
