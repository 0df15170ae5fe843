"""Erasure patterns: which workers' outputs came and which did not."""

import itertools
import math
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError

__all__ = ["count_patterns", "erasure_patterns"]

Masks = np.ndarray[Any, np.dtype[np.bool_]]


def count_patterns(n: int, r: int, *, fewest: int = 0) -> int:
    """In how many ways between `fewest` and `r` of `n` outputs can be missing.

    >>> count_patterns(15, 5, fewest=5)
    3003
    """
    if not 0 <= fewest <= r <= n:
        raise ConfigError(f"patterns of {fewest} to {r} missing of {n}, expected 0 <= fewest <= r <= n")
    return sum(math.comb(n, missing) for missing in range(fewest, r + 1))


def erasure_patterns(n: int, r: int, *, limit: int, rng: np.random.Generator, fewest: int = 0) -> Masks:
    """Masks `(count, n)`, true where an output came, with `fewest` to `r` missing and fewer missing first.

    Every pattern where there are at most `limit`, and then `rng` is left alone; else `limit` of them, drawn
    uniformly without repeats, so that most miss about as many as the most frequent number of missing does.

    Raises:
        ConfigError: unless 0 <= fewest <= r <= n and `limit` is at least 1.

    >>> erasure_patterns(3, 1, limit=8, rng=np.random.default_rng(0)).astype(int).tolist()
    [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    """
    if limit < 1:
        raise ConfigError(f"at most {limit} patterns, expected a limit of 1 or more")
    if count_patterns(n, r, fewest=fewest) <= limit:
        return _every(n, range(fewest, r + 1))
    masks = _sample(n, range(fewest, r + 1), limit, rng)
    order = np.lexsort((*masks.T[::-1], n - masks.sum(axis=1)))
    return masks[order]


def _every(n: int, missing: range) -> Masks:
    sets = [lost for size in missing for lost in itertools.combinations(range(n), size)]
    masks = np.ones((len(sets), n), np.bool_)
    for mask, lost in zip(masks, sets, strict=True):
        mask[list(lost)] = False
    return masks


def _sample(n: int, missing: range, count: int, rng: np.random.Generator) -> Masks:
    """Uniform draws, repeats thrown away: what is left is uniform without replacement."""
    ways = [math.comb(n, size) for size in missing]
    shares = [way / sum(ways) for way in ways]
    seen: dict[bytes, None] = {}  # in the order of drawing: cutting a sorted set would not be uniform
    while len(seen) < count:
        sizes = rng.choice(np.array(missing), size=count, p=shares)
        ranks = rng.random((count, n)).argsort(axis=1).argsort(axis=1)
        seen.update(dict.fromkeys(map(bytes, ranks >= sizes[:, None])))
    kept = b"".join(itertools.islice(seen, count))
    return np.frombuffer(kept, np.bool_).reshape(count, n)
