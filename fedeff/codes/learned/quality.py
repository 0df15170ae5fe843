"""How often estimated answers are the function's, erasure pattern by erasure pattern."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fedeff.codes.code import Code, decode_groups, encode_groups
from fedeff.codes.learned.erasures import missing_patterns
from fedeff.codes.learned.frozen import answers_of
from fedeff.codes.patterns import erasure_patterns
from fedeff.core.errors import CodeError
from fedeff.core.rng import generator

__all__ = ["Answers", "PatternQuality", "classes", "measure"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Answers = Callable[[NDArray], NDArray]  # from outputs (..., classes) to what is compared, (...)
_GROUPS = 200  # that a code is measured on, of samples dealt at random, each used about as often


def classes(outputs: NDArray) -> NDArray:
    """The likeliest class of each output, the last axis being classes."""
    found: NDArray = outputs.argmax(-1)
    return found


@dataclass(frozen=True, eq=False)
class PatternQuality:
    """The share of groups in which an estimated answer was the function's, for each pattern measured.

    Every estimate under a pattern that was not measured gets one number: the mean over those that miss as
    many originals and as many parities; where there are none, over those that miss as many originals; else
    over all. Of a code that is not systematic no output is an original.
    """

    masks: NDArray  # (patterns, n) booleans
    shares: NDArray  # (patterns, k), float64; not a number for an answer that came, and was not estimated
    systematic: bool = True

    def of(self, mask: NDArray) -> NDArray:
        """The quality of each answer under a mask, `(k,)`: one where the original came."""
        k = self.shares.shape[1]
        same = (self.masks == mask).all(1)
        estimated = self.shares[same.argmax()] if same.any() else np.full(k, self._alike(mask))
        return np.where(mask[:k], 1.0, estimated) if self.systematic else estimated

    def _alike(self, mask: NDArray) -> float:
        """The mean over the measured patterns that are most like this one."""
        own = self.shares.shape[1] if self.systematic else 0
        lost, late = (~self.masks[:, :own]).sum(1), (~self.masks[:, own:]).sum(1)
        as_many = lost == (~mask[:own]).sum()
        for alike in (as_many & (late == (~mask[own:]).sum()), as_many, np.full(len(lost), True)):
            if np.isfinite(self.shares[alike]).any():
                return float(np.nanmean(self.shares[alike]))
        return float("nan")


def measure(
    code: Code,
    function: nn.Module,
    samples: torch.Tensor,
    masks: NDArray | None = None,
    *,
    patterns: int = 32,
    seed: int = 0,
    answers: Answers = classes,
) -> PatternQuality:
    """The quality of a code on groups of `(n, ...)` samples, under these masks or at most `patterns`.

    The function is in eval mode already. 200 groups: a share of 0.9 is known to about 0.02.

    Raises:
        CodeError: if there are fewer samples than a group has.
    """
    if len(samples) < code.k:
        raise CodeError(f"{len(samples)} samples to measure on, expected at least a group of {code.k}")
    rng = generator(seed, purpose="code quality")
    tried = masks if masks is not None else _patterns(code, patterns, rng)
    groups = _groups(len(samples), code.k, rng)
    inputs = samples[torch.from_numpy(groups)]
    right = _answers(function, inputs).numpy()
    outputs = _outputs(code, function, inputs, right)
    shares = [_share(code, outputs, right, mask, answers) for mask in tried]
    return PatternQuality(tried, np.array(shares).reshape(len(tried), code.k), code.systematic)


def _patterns(code: Code, limit: int, rng: np.random.Generator) -> NDArray:
    if code.systematic:
        masks = missing_patterns(code.k, code.r, limit=limit, rng=rng)
    else:
        masks = erasure_patterns(code.k + code.r, code.r, limit=limit, rng=rng)
    return masks[[code.decodable(mask) for mask in masks]]


def _groups(samples: int, k: int, rng: np.random.Generator) -> NDArray:
    """Numbers of samples, `(groups, k)`: permutations one after the other, so that none is used much more."""
    rounds = -(-_GROUPS * k // samples)
    dealt = [rng.permutation(samples)[: samples // k * k].reshape(-1, k) for _ in range(rounds + 1)]
    return np.concatenate(dealt)[:_GROUPS]


def _outputs(code: Code, function: nn.Module, inputs: torch.Tensor, right: NDArray) -> NDArray:
    """What every worker says of each group, `(groups, n, ...)`."""
    coded = torch.from_numpy(encode_groups(code, inputs.numpy()))
    models = tuple(getattr(code, "parity_models", ()))
    if models:
        said = torch.stack([answers_of(model, coded[:, i]) for i, model in enumerate(models)], 1)
    else:
        said = _answers(function, coded)
    return np.concatenate([right, said.numpy()], 1) if code.systematic else said.numpy()


def _answers(function: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Of `(groups, m, ...)` inputs, `(groups, m, ...)`."""
    flat = answers_of(function, inputs.flatten(0, 1))
    return flat.reshape(*inputs.shape[:2], *flat.shape[1:])


def _share(code: Code, outputs: NDArray, right: NDArray, mask: NDArray, answers: Answers) -> NDArray:
    estimates = decode_groups(code, outputs, mask)
    alike = answers(estimates) == answers(right)
    shares: NDArray = alike.reshape(*alike.shape[:2], -1).all(-1).mean(0)
    return np.where(mask[: code.k], np.nan, shares) if code.systematic else shares
