import pytest
import torch
from torch import nn

SHAPE = (1, 6, 6)


@pytest.fixture
def function():
    """A classifier of four classes, in training mode, as a careless user leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 4))


@pytest.fixture
def affine():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 4))


@pytest.fixture(scope="session")
def samples():
    return torch.randn(240, *SHAPE, generator=torch.Generator().manual_seed(1))
