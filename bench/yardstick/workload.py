"""The yardstick workload: label-skewed Fashion-MNIST, one local epoch, batch 10, SGD 0.05.

1,000 clients hold 60 samples each, 5,000 hold 12. Every engine trains exactly this, so that seconds per
round compare. Needs Debian's `dataset-fashion-mnist`.
"""

import gzip
import pathlib
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = pathlib.Path("/usr/share/datasets/fashion-mnist")
BATCH, LEARNING_RATE, CLASSES = 10, 0.05, 10


def _idx(name: str, offset: int) -> np.ndarray:
    with gzip.open(ROOT / name) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=offset)


def load() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) float32 in [0, 1] and int64 labels, train then test."""
    return *_part("train"), *_part("t10k")


def _part(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    images = _idx(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = _idx(f"{name}-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def partition(labels: np.ndarray, clients: int, alpha: float = 0.3, seed: int = 0) -> np.ndarray:
    """Indices (clients, n // clients): equal sizes, class mix drawn from Dirichlet(alpha)."""
    rng = np.random.default_rng(seed)
    pools = [list(rng.permutation(np.flatnonzero(labels == c))) for c in range(CLASSES)]
    rows = []
    for _ in range(clients):
        mix, row = rng.dirichlet([alpha] * CLASSES) + 1e-9, []
        for _ in range(len(labels) // clients):
            left = mix * [len(pool) > 0 for pool in pools]
            row.append(pools[rng.choice(CLASSES, p=left / left.sum())].pop())
        rows.append(row)
    return np.array(rows)


class CNN(nn.Module):
    """46,730 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 5), nn.Conv2d(16, 32, 5)
        self.fc1, self.fc2 = nn.Linear(512, 64), nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


class MLP(nn.Module):
    """50,890 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 64), nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


MODELS = {"cnn": CNN, "mlp": MLP}


def result(engine: str, model: str, clients: int, cohort: int, seconds: list[float], **more: float) -> str:
    """The line that a peer ends with; its samples leave out the first round, which warms up."""
    rest = "".join(f" {key}={value:.3f}" for key, value in more.items())
    samples = ",".join(f"{s:.4f}" for s in seconds)
    rest += f" median_s={statistics.median(seconds):.4f} samples_s={samples}"
    return f"{engine} {model} clients={clients} cohort={cohort}{rest}"
