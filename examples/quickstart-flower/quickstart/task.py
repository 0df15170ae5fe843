"""The network, the digits and how to train one on the other."""

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Net(nn.Module):
    """Two dense layers for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 64)."""
        out: Tensor = self.out(torch.relu(self.hidden(x)))
        return out


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Every digit, shuffled once: images (1797, 64) in [0, 1] and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(labels[order])


def client_data(partition: int, partitions: int) -> tuple[Tensor, Tensor]:
    """One client's share of the first 1,500 digits."""
    images, labels = digits()
    return images[:1500][partition::partitions], labels[:1500][partition::partitions]


def test_data() -> tuple[Tensor, Tensor]:
    """The last 297 digits, which no client trains on."""
    images, labels = digits()
    return images[1500:], labels[1500:]


def train(net: Net, x: Tensor, y: Tensor, epochs: int, batch_size: int, learning_rate: float) -> float:
    """Train in place by SGD; the last batch's loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    loss = torch.zeros(())
    for _ in range(epochs):
        for start in range(0, len(y), batch_size):
            rows = slice(start, start + batch_size)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(net: Net, x: Tensor, y: Tensor) -> float:
    """The fraction of images that the network gets right."""
    return (net(x).argmax(1) == y).float().mean().item()
