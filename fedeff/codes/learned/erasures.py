"""Which erasure patterns a learned code is trained and measured on."""

import itertools
import math
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError

__all__ = ["missing_patterns"]

Masks = np.ndarray[Any, np.dtype[np.bool_]]


def missing_patterns(k: int, r: int, *, limit: int, rng: np.random.Generator) -> Masks:
    """Masks `(count, k + r)`, true where an output came, that miss an original and at most `r` in all.

    Every one where there are at most `limit`. Else `limit` of them, dealt in turn to each number of missing
    originals and parities, drawn uniformly within it: a uniform sample of all would hardly hold those that
    miss little, which are the most frequent in service.

    Raises:
        ConfigError: if `limit` is less than 1.

    >>> missing_patterns(2, 1, limit=8, rng=np.random.default_rng(0)).astype(int).tolist()
    [[0, 1, 1], [1, 0, 1]]
    """
    if limit < 1:
        raise ConfigError(f"at most {limit} patterns, expected a limit of 1 or more")
    kinds = [
        (lost, late)
        for total in range(1, r + 1)
        for lost in range(total, 0, -1)
        if lost <= k
        for late in (total - lost,)
    ]
    left = [math.comb(k, lost) * math.comb(r, late) for lost, late in kinds]
    dealt = _deal(left, limit)
    drawn = [_draw(k, r, *kind, count, rng) for kind, count in zip(kinds, dealt, strict=True) if count]
    return np.concatenate(drawn)


def _deal(left: list[int], limit: int) -> list[int]:
    """How many of each kind, one in turn to each that has any left, those that miss least first."""
    dealt = [0] * len(left)
    while sum(dealt) < min(limit, sum(left)):
        for kind, count in enumerate(left):
            if dealt[kind] < count and sum(dealt) < limit:
                dealt[kind] += 1
    return dealt


def _draw(k: int, r: int, lost: int, late: int, count: int, rng: np.random.Generator) -> Masks:
    """`count` different masks with `lost` of the originals and `late` of the parities missing."""
    ways = math.comb(k, lost) * math.comb(r, late)
    if ways <= 4 * count:
        pairs = list(
            itertools.product(
                itertools.combinations(range(k), lost), itertools.combinations(range(k, k + r), late)
            )
        )
        places = sorted(rng.choice(ways, count, replace=False)) if count < ways else range(ways)
        chosen = {(*pairs[place][0], *pairs[place][1]) for place in places}
    else:
        chosen = set()
        while len(chosen) < count:
            own, parity = rng.choice(k, lost, replace=False), rng.choice(r, late, replace=False) + k
            chosen.add((*sorted(own.tolist()), *sorted(parity.tolist())))
    masks = np.ones((count, k + r), np.bool_)
    for mask, missing in zip(masks, sorted(chosen), strict=True):
        mask[list(missing)] = False
    return masks
