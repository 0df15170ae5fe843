"""How well a model does on a client's samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.training import Array
from fedeff.clients.weights import load_weights

__all__ = ["Score", "evaluate"]

_BATCH = 256


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and the share of right predictions (of characters, where those are predicted)."""

    loss: float
    accuracy: float
    examples: int


@torch.inference_mode()
def evaluate(model: nn.Module, arrays: Mapping[str, Array], samples: Samples) -> Score:
    """The score of the model `arrays` on the samples; `model` is overwritten with it.

    Without samples it is 0 over 0 examples, which weighs nothing in a mean.
    """
    if not len(samples):
        return Score(0.0, 0.0, 0)
    load_weights(model, arrays)
    model.eval()
    loss = right = torch.zeros((), dtype=torch.float64, device=samples.y.device)
    for x, y in zip(torch.split(samples.x, _BATCH), torch.split(samples.y, _BATCH), strict=True):
        logits, labels = model(x).flatten(0, -2), y.flatten()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        right = right + (logits.argmax(-1) == labels).sum()
    predictions = samples.y.numel()
    return Score(float(loss) / predictions, float(right) / predictions, len(samples))
