"""How far an estimated answer is from the function's."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "Loss", "default_distance", "distance", "over_missing"]

Loss = Literal["mse", "kl", "cross-entropy"]
LOSSES: tuple[str, ...] = get_args(Loss)


def distance(loss: Loss, estimates: Tensor, answers: Tensor, labels: Tensor | None = None) -> Tensor:
    """The loss of each estimate `(..., classes)`, `(...)`.

    "mse" is the mean square to the answer, "kl" the divergence of the estimated from the answered
    distribution (both softmax), "cross-entropy" that of the labels, which it needs.
    """
    if loss == "mse":
        return (estimates - answers).square().mean(-1)
    if loss == "kl":
        divergence = F.kl_div(
            F.log_softmax(estimates, -1), F.log_softmax(answers, -1), log_target=True, reduction="none"
        )
        return divergence.sum(-1)
    assert labels is not None
    return -F.log_softmax(estimates, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def default_distance(loss: Loss, answers: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of the best estimate that is the same for every one of `(..., classes)` answers.

    A code above it has learned nothing about its inputs.
    """
    rows = answers.flatten(0, -2)
    if loss == "mse":
        return (rows - rows.mean(0)).square().mean()
    if loss == "kl":
        constant = rows.softmax(-1).mean(0).log()
    else:
        constant = F.one_hot(labels.flatten(), answers.shape[-1]).float().mean(0).clamp_min(1e-9).log()
    return distance(loss, constant.expand_as(answers), answers, labels).mean()


def over_missing(distances: Tensor, masks: Tensor) -> Tensor:
    """The mean of `(patterns, groups, k, ...)` over groups, and over patterns and what each mask erases."""
    by_place = distances.reshape(*distances.shape[:3], -1).mean((1, 3))
    missing: Tensor = by_place[~masks[:, : distances.shape[2]]]
    return missing.mean()
