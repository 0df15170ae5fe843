"""Decoding as if the function were linear: what the residual codes and parity models start from."""

import functools

import numpy as np
import torch
from torch import Tensor

from fedeff.codes.linear import Matrix

__all__ = ["apply_decoding", "linear_decoding"]


def linear_decoding(parity: Matrix, masks: Tensor) -> Tensor:
    """Matrices `(patterns, k, n)` from the outputs to the answers, zero for outputs that a mask erases.

    Answers that came are taken as they are; the others solve the parities' equations by least squares over
    those that came. With fewer of them than answers missing, of least norm.
    """
    weights = parity.tobytes()
    return torch.stack([_matrix(weights, len(parity), mask.tobytes()) for mask in masks.numpy()])


@functools.lru_cache(maxsize=4096)  # a step of training, or a decoding, takes less time than a few inverses
def _matrix(weights: bytes, r: int, mask: bytes) -> Tensor:
    parity = np.frombuffer(weights).reshape(r, -1)
    k, left = parity.shape[1], np.frombuffer(mask, np.bool_)
    own, came = left[:k], left[k:]
    matrix = np.zeros((k, k + r))
    matrix[own, np.flatnonzero(own)] = 1
    if not own.all():
        inverse = np.linalg.pinv(parity[came][:, ~own])
        rows = np.flatnonzero(~own)
        matrix[np.ix_(rows, k + np.flatnonzero(came))] = inverse
        matrix[np.ix_(rows, np.flatnonzero(own))] = -inverse @ parity[came][:, own]
    return torch.from_numpy(matrix).float()


def apply_decoding(matrices: Tensor, outputs: Tensor) -> Tensor:
    """Estimates `(patterns, groups, k, ...)` from outputs `(groups, n, ...)`, one matrix for each pattern."""
    flat = torch.einsum("pkn,gnm->pgkm", matrices, outputs.flatten(2))
    return flat.reshape(*flat.shape[:3], *outputs.shape[2:])
