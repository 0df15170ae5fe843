"""Samples as they are given: tensors or arrays."""

from typing import Any

import numpy as np
import torch

from fedeff.core.errors import CodeError

__all__ = ["as_labels", "as_samples"]

NDArray = np.ndarray[Any, np.dtype[Any]]


def as_samples(samples: torch.Tensor | NDArray) -> torch.Tensor:
    """The same as a float32 tensor, `(n, ...)`.

    Raises:
        CodeError: unless they are finite floats, one array for each sample.
    """
    tensor = samples if isinstance(samples, torch.Tensor) else torch.as_tensor(np.asarray(samples))
    if not tensor.is_floating_point() or tensor.ndim < 2:
        raise CodeError(
            f"samples {tuple(tensor.shape)} of {tensor.dtype}, expected (n, ...) floats, as it reads them"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CodeError("samples hold NaN or infinity; leave those out")
    return tensor.detach().float()


def as_labels(labels: torch.Tensor | NDArray | None, answers: torch.Tensor) -> torch.Tensor:
    """Labels for each of the `(n, ...)` answers; the function's own classes where none are given.

    Raises:
        CodeError: unless there is a class for each answer.
    """
    own = answers.argmax(-1)
    if labels is None:
        return own
    tensor = labels if isinstance(labels, torch.Tensor) else torch.as_tensor(np.asarray(labels))
    if tensor.shape != own.shape or tensor.is_floating_point():
        raise CodeError(
            f"labels {tuple(tensor.shape)} of {tensor.dtype}, expected whole numbers {tuple(own.shape)}"
        )
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < answers.shape[-1]:
        raise CodeError(
            f"labels from {tensor.min()} to {tensor.max()}, expected 0 to {answers.shape[-1] - 1}"
        )
    return tensor.long()
