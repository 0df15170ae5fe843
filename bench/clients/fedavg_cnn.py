"""The CNN of the paper that named federated averaging: more filters and neurons than its task needs."""

import torch
from torch import nn

from fedeff.models.convolutional import LeNet

__all__ = ["FedAvgCnn"]


class FedAvgCnn(LeNet):
    """5x5 convolutions of 32 and 64 channels, padded, pooled by 2, then dense layers of 512 and 10.

    McMahan et al., arXiv:1602.05629, section 3: 1,663,370 parameters for (1, 28, 28).
    """

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            super().__init__(10, (1, 28, 28))
            self._pixels = 7 * 7  # of a channel once it is flattened
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
            self.fc1, self.fc2 = nn.Linear(64 * self._pixels, 512), nn.Linear(512, 10)
