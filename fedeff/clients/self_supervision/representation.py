"""How good a network's features are, by a linear probe and by neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.self_supervision.probe import fit_probe, labelled_rows, neighbours_vote
from fedeff.clients.training import Array
from fedeff.clients.weights import load_weights

__all__ = ["RepresentationScore", "features_of", "labelled", "representation_score"]

_BATCH = 256


@dataclass(frozen=True)
class RepresentationScore:
    """Right predictions on so many test rows, as shares, and the probe's mean cross-entropy."""

    probe_accuracy: float
    probe_loss: float
    neighbours_accuracy: float
    examples: int


def representation_score(
    model: nn.Module, arrays: Mapping[str, Array], known: Samples, test: Samples
) -> RepresentationScore:
    """The score on `test` of what the network `arrays` makes of images, with the labels of `known` alone.

    `model(x)` are features; it is overwritten. Without test rows the score is 0 over 0 examples, which
    weighs nothing in a mean.
    """
    if not len(test):
        return RepresentationScore(0.0, 0.0, 0.0, 0)
    load_weights(model, arrays)
    bank, seen = features_of(model, known.x), features_of(model, test.x)
    own, labels = known.y.cpu(), test.y.cpu()
    classes = 1 + int(max(own.max(), labels.max()))
    logits = fit_probe(bank, own, classes).logits(seen)
    votes = neighbours_vote(seen, bank, own, classes)
    return RepresentationScore(
        float((logits.argmax(1) == labels).double().mean()),
        float(F.cross_entropy(logits, labels)),
        float((votes == labels).double().mean()),
        len(test),
    )


@torch.no_grad()
def features_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The model's outputs (n, features) on the CPU, in float32."""
    model.eval()
    return torch.cat([model(batch).float().cpu() for batch in torch.split(x, _BATCH)])


def labelled(samples: Samples, share: float, rng: np.random.Generator) -> Samples:
    """Those of a client's samples whose labels an evaluation may see (see `labelled_rows`)."""
    rows = torch.from_numpy(labelled_rows(samples.y.cpu().numpy(), share, rng)).to(samples.y.device)
    return Samples(samples.x[rows], samples.y[rows])
