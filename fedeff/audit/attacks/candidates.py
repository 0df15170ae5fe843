"""What attacks that optimise begin with: labels, random inputs, and which of two ends is better."""

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.labels import LabelInference, infer_labels, likely_labels
from fedeff.audit.replay.matching import Matching, obstacle_to_replay, replayed_rows
from fedeff.audit.replay.targets import Scale
from fedeff.audit.view import Labels, ServerView, Told

__all__ = [
    "are_told",
    "best_scale",
    "known_labels",
    "labels_to_try",
    "obstacle_to_optimising",
    "obstacle_to_trying",
    "random_inputs",
]

_NOISE_OF_ONE, _NOISE_OF_SEVERAL = 0.1, 0.3  # of the range
_NOISY = 0.01  # of an array, the share of error from which on entries are weighed by it


def obstacle_to_optimising(view: ServerView) -> str | None:
    """Why inputs cannot be sought by replaying the client, in one line; None where they can."""
    if view.public.task != "classify":
        return "inputs are tokens; use an attack on text"
    if obstacle := obstacle_to_replay(view):
        return obstacle
    return None if are_told(view) else LabelInference().obstacle(view)


def obstacle_to_trying(view: ServerView) -> str | None:
    """Why inputs cannot be sought under any labels, in one line; None where they can.

    Of one row every class can be tried where nothing betrays it; of several there are too many choices.
    """
    obstacle = obstacle_to_optimising(view)
    if obstacle is None or view.public.task != "classify" or obstacle_to_replay(view):
        return obstacle
    return None if replayed_rows(view.first, view) == 1 else obstacle


def are_told(view: ServerView) -> bool:
    """Whether labels are known, or betrayed by the last layer."""
    return view.labels is not None or LabelInference().obstacle(view) is None


def labels_to_try(view: ServerView, rows: int) -> list[Labels]:
    """The labels that are known, or betrayed by each way of inferring them; else each class of one row."""
    if view.labels is not None:
        return [view.labels[:rows]]
    if are_told(view):
        return [one[:rows] for one in likely_labels(view)]
    return [np.array([label]) for label in range(view.public.classes)]


def known_labels(view: ServerView, rows: int) -> Labels:
    """The labels that an informed attacker has, else those that the last layer betrays, (rows,)."""
    return (infer_labels(view) if view.labels is None else view.labels)[:rows]


def random_inputs(view: ServerView, matching: Matching, rng: np.random.Generator) -> Tensor:
    """Inputs (rows, *shape) to begin with: grey, with Gaussian noise.

    More of it on several rows: those of one label that begin alike stay alike for long.
    """
    drawn = 0.5 + (_NOISE_OF_ONE if matching.rows == 1 else _NOISE_OF_SEVERAL) * rng.standard_normal(
        (matching.rows, *matching.shape)
    )
    public = view.public
    return torch.from_numpy(public.lowest + (public.highest - public.lowest) * drawn)


def best_scale(view: ServerView) -> Scale:
    """The scale "noise" where the error on record is more than a hundredth of some array, else "layer".

    Under less, of a float16 say, entries that came exactly would outweigh all others from the start.
    """
    told = [one for exchange in view.exchanges for one in exchange.told.values()]
    return "noise" if any(_share_of_error(one) > _NOISY for one in told) else "layer"


def _share_of_error(told: Told) -> float:
    """How long the error to be expected of the known values is, beside them."""
    size = float(np.linalg.norm(told.values[told.mask]))
    error = float(np.linalg.norm(np.broadcast_to(told.std, told.values.shape)[told.mask]))
    return error / size if size else float(error > 0)
