"""An encoder, and what SimSiam puts on top of it while it trains."""

from itertools import takewhile
from typing import cast

import torch
from torch import nn

from fedeff.core.errors import ConfigError

__all__ = ["SimSiamNetwork", "encoder_of"]

_BOTTLENECK = 4  # times narrower than the projection is the predictor's hidden layer


class SimSiamNetwork(nn.Module):
    """A model without its dense end, a projector and a predictor (Chen & He, arXiv:2011.10566, section 3).

    The model's output is a batch's features (n, features): what is of use once training is over. Embeddings
    of width d are made of them by two dense layers, predictions of the embeddings by two others with a
    hidden layer of d / 4. These normalise by the statistics of the batch at hand, without running ones,
    which would not average over clients: the network has no buffers, and the encoder is what it was.
    GroupNorm in their place collapses within a few hundred steps (`embedding-std` at 1% of what is
    healthy on Fashion-MNIST): that embeddings have zero mean over a batch is what keeps them apart.
    """

    def __init__(self, model: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.encoder, features = encoder_of(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projector = nn.Sequential(*_dense(features, width), nn.ReLU(), *_dense(width, width))
            hidden = max(1, width // _BOTTLENECK)
            self.predictor = nn.Sequential(*_dense(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, features) of images (n, channels, height, width)."""
        features: torch.Tensor = self.encoder(x)
        return features

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings z (n, width) of images."""
        embedded: torch.Tensor = self.projector(self.encoder(x))
        return embedded


def encoder_of(model: nn.Module) -> tuple[nn.Module, int]:
    """The model with the dense layers at its end taken out, and how many features it then gives.

    Of a model of dense layers alone the last one is taken out.

    Raises:
        ConfigError: for a model with nothing below its last layer.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if name and _has_own_weights(layer)]
    head = list(takewhile(lambda one: isinstance(one[1], nn.Linear), reversed(layers)))
    head = head[:1] if len(head) == len(layers) else head
    if not head or len(layers) == 1:
        raise ConfigError(
            f"{type(model).__name__} is no encoder with a dense layer on top, so it has no features to "
            "learn; use a model such as cnn or resnet20-small"
        )
    for name, _ in head:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, _Copy())
    return model, cast(nn.Linear, head[-1][1]).in_features


class _Copy(nn.Module):
    """Stands for a layer that was taken out. What comes next may work in place, as rectifiers do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def _has_own_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def _dense(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, track_running_stats=False)
