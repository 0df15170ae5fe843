"""How few bits a codec's values could take: pure arithmetic on counts."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedeff.compression import (
    EF21,
    QSGD,
    Chain,
    Codec,
    ErrorFeedback,
    Half,
    Layout,
    PowerSGD,
    RandomK,
    Raw,
    Sign,
    TernGrad,
    TopK,
    Uniform,
)
from fedeff.compression.top_k import kept_count

__all__ = ["NDArray", "binary_entropy", "bound_bits", "has_levels", "mean_kept", "sent_entropy"]

NDArray = np.ndarray[Any, np.dtype[Any]]
_FLOAT_BITS = 32.0
_FIXED = {Raw: _FLOAT_BITS, Half: 16.0, Sign: 1.0, TernGrad: math.log2(3)}


def binary_entropy(share: float) -> float:
    """Bits of a yes that comes with this probability, so of whether an entry is kept."""
    return sum(-p * math.log2(p) for p in (share, 1 - share) if 0 < p < 1)


def bound_bits(codec: Codec, layout: Layout) -> float:
    """Bits a value below which no code can send what the codec sends, if it knows of no statistics.

    All levels equally likely, all sets of kept positions equally likely, floats incompressible; scales and
    frame free. Real values are not so even: `sent_entropy` may be lower, and so may a codec that adapts.
    """
    sizes = {name: math.prod(shape) for name, (shape, _) in layout.items()}
    bits = (sizes[name] * _bits(codec.for_array(name), shape) for name, (shape, _) in layout.items())
    return sum(bits) / sum(sizes.values())


def has_levels(codec: Codec) -> bool:
    """Whether every value of an array that the codec sends is one of a few levels."""
    whole = isinstance(codec, QSGD) and not codec.bucket  # else buckets have levels of their own
    return whole or isinstance(codec, Sign | TernGrad | Uniform)


def sent_entropy(arrays: Mapping[str, NDArray]) -> float:
    """Bits a value that an ideal code takes which knows how often each level occurs in each array."""
    bits, values = 0.0, 0
    for array in arrays.values():
        shares = np.unique(array, return_counts=True)[1] / array.size
        bits -= array.size * float((shares * np.log2(shares)).sum())
        values += array.size
    return bits / values


def mean_kept(sent: NDArray, decoded: NDArray) -> tuple[float, float]:
    """Of the mean of rows: how much of it the mean of the decoded rows holds, and how far that is from it.

    Both as a share of its length: 1 and 0 where nothing is lost. A codec that is right in the mean keeps 1;
    noise makes the second number larger, less so the more rows there are.
    """
    mean, found = sent.mean(0, np.float64), decoded.mean(0, np.float64)
    return float(found @ mean / (mean @ mean)), float(np.linalg.norm(found - mean) / np.linalg.norm(mean))


def _bits(codec: Codec, shape: tuple[int, ...]) -> float:
    match codec:
        case ErrorFeedback() | EF21():
            return _bits(codec.codec, shape)
        case Uniform():
            return float(codec.bits)
        case QSGD():
            return math.log2(2 * codec.levels + 1)
        case TopK() | RandomK():
            return _kept_bits(codec, shape, _FLOAT_BITS)
        case Chain(select=TopK() | RandomK() as select):
            return _kept_bits(select, shape, _bits(codec.then, shape))
        case PowerSGD():
            return _factor_bits(codec.rank, shape)
    return _FIXED[type(codec)]


def _kept_bits(codec: TopK | RandomK, shape: tuple[int, ...], each: float) -> float:
    """Positions that are drawn from a seed are free."""
    size = math.prod(shape)
    share = kept_count(size, codec.fraction) / size
    return share * each + (binary_entropy(share) if isinstance(codec, TopK) else 0.0)


def _factor_bits(rank: int, shape: tuple[int, ...]) -> float:
    """Raw where two factors would not be shorter, as the codec does."""
    rows, columns = shape[0], math.prod(shape[1:])
    shorter = len(shape) > 1 and rank <= rows and rank * (rows + columns) < rows * columns
    return _FLOAT_BITS * rank * (rows + columns) / (rows * columns) if shorter else _FLOAT_BITS
