"""SimSiam: two views of an image predict each other's embedding."""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.objective import Objectives
from fedeff.clients.self_supervision.augmentation import Augmentation
from fedeff.clients.self_supervision.network import SimSiamNetwork
from fedeff.core.errors import ConfigError

__all__ = ["SimSiam", "embedding_spread", "simsiam_loss"]


@dataclass(frozen=True)
class SimSiam:
    """The objective of SimSiam (Chen & He, arXiv:2011.10566, algorithm 1), averaged over clients SSFL's.

    He et al., arXiv:2110.02470. For models that are a `SimSiamNetwork`, and images; labels are not looked
    at. The measure `embedding-std` tells collapse (see `embedding_spread`). `probe_labels` is the share of a
    client's rows whose labels an evaluation may see.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    probe_labels: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.probe_labels <= 1:
            raise ConfigError(f"probe-labels is {self.probe_labels}; it must be above 0 and at most 1")

    def __call__(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator
    ) -> Objectives:
        """The mean loss of two views of each of the images (n, channels, height, width)."""
        return self.of(model, self.embeddings(model, self.views(x, rng)))

    def views(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Two views (2n, channels, height, width) of each image in one batch, the second ones last."""
        return self.augmentation(torch.cat((x, x)), rng)

    @staticmethod
    def embeddings(model: nn.Module, views: torch.Tensor) -> torch.Tensor:
        """Embeddings z (2n, width) of the views."""
        return cast(SimSiamNetwork, model).embed(views)

    @staticmethod
    def of(model: nn.Module, z: torch.Tensor) -> Objectives:
        """The loss of the views whose embeddings these are."""
        p = cast(SimSiamNetwork, model).predictor(z)
        return Objectives(
            simsiam_loss(*p.chunk(2), *z.chunk(2)), {"embedding-std": embedding_spread(z.detach())}
        )


def simsiam_loss(p1: torch.Tensor, p2: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """`1/2 D(p1, sg z2) + 1/2 D(p2, sg z1)`, D being minus the cosine, of rows (n, width).

    In [-1, 1]. No gradient passes through the embeddings z that are predicted.
    """
    return -0.5 * (_cosine(p1, z2.detach()) + _cosine(p2, z1.detach()))


def embedding_spread(z: torch.Tensor) -> torch.Tensor:
    """`std(z / |z|)` over the rows, the mean over the columns.

    0 where all embeddings are one, the collapse of siamese networks, and 1 / sqrt(columns) where they
    point everywhere (Chen & He, section 4.1).
    """
    return F.normalize(z.float(), dim=1).std(0, correction=0).mean()


def _cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(p, z, dim=1).mean()
