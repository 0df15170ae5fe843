"""Parity matrices over the reals that lose little to rounding, found by a seeded random search."""

import functools

import numpy as np

from fedeff.codes.linear import Matrix
from fedeff.codes.patterns import erasure_patterns
from fedeff.core.rng import generator

__all__ = ["KNOWN_THOUSANDTHS", "find_parity", "worst_condition"]

_PATTERNS = 4096  # at most, over which a condition number is taken: C(15, 5) is 3003
_CHUNK = 64  # patterns between two looks at whether a candidate has already lost
_STARTS = 32  # independent candidates of a search
_STEPS = 160  # and then changes of the best one

# Found by longer searches of this kind; in whole thousandths, so that rows sum to one.
KNOWN_THOUSANDTHS: dict[tuple[int, int], list[list[int]]] = {
    (2, 2): [[629, 371], [371, 629]],
    (3, 2): [[554, -550, 996], [551, 1000, -551]],
    (4, 2): [[-276, 251, 482, 543], [490, 527, 248, -265]],
    (4, 4): [[296, 1031, -495, 168], [-292, 553, 239, 500], [217, 117, 395, 271], [239, 385, -71, 447]],
    (5, 2): [[-305, 752, 864, -718, 407], [655, -624, 219, 217, 533]],
    (5, 3): [[-169, 105, 699, 590, -225], [-189, 1121, -291, -504, 863], [940, 341, 257, -316, -222]],
    (6, 3): [
        [166, 242, 359, 228, -254, 259],
        [52, 540, -78, -115, 311, 290],
        [488, 140, -192, 443, 401, -280],
    ],
    (8, 2): [[105, -287, -351, 189, 584, -147, 470, 437], [761, -221, 266, 397, 130, 441, -130, -644]],
    (8, 4): [
        [343, 242, -22, 226, -43, -129, 434, -51],
        [665, 502, -444, 359, -145, 255, 249, -441],
        [137, 138, 571, -198, 483, -161, 110, -80],
        [360, 72, 706, 86, 148, 157, -372, -157],
    ],
    (10, 2): [
        [-520, 216, -126, 431, 349, -290, 427, 75, -255, 693],
        [-191, -272, 542, -63, 212, -283, 609, 230, 131, 85],
    ],
    (10, 3): [
        [-101, 304, 167, 582, 502, -215, -75, -191, -124, 151],
        [-24, 218, 417, -240, 202, -134, 680, -14, 175, -280],
        [-168, 218, 42, 330, -740, 237, -76, 532, 49, 576],
    ],
    (10, 4): [
        [-22, -80, -211, -197, 151, 421, 478, 93, 466, -99],
        [401, -102, 413, -205, -115, 200, 423, -244, 21, 208],
        [269, -138, 162, 118, 446, 290, -309, -446, 88, 520],
        [416, 292, 36, -426, 288, 9, 484, -405, 360, -54],
    ],
    (10, 5): [
        [105, 213, 813, -130, -450, 306, -121, 585, -132, -189],
        [477, 131, 426, -362, 638, -91, 362, -197, -409, 25],
        [-78, 398, -10, 109, 65, 878, -400, 263, -195, -30],
        [-43, 517, -250, -271, 88, -211, 362, 481, -69, 396],
        [-78, 102, 132, 718, 171, -152, -95, 512, -344, 34],
    ],
}


@functools.cache
def find_parity(k: int, r: int, seed: int) -> Matrix:
    """A read-only `(r, k)` matrix with rows that sum to one, whose worst condition number is small.

    For one parity the mean, which is the best; for seed 0 what is known; else the best that a random
    search finds, over all patterns where there are at most 4,096: 2 s of one core at k = 10, r = 5,
    8 s at k = 20, r = 5.
    """
    if r == 1:
        found = np.full((1, k), 1 / k)
    elif seed == 0 and (k, r) in KNOWN_THOUSANDTHS:
        found = np.array(KNOWN_THOUSANDTHS[k, r]) / 1000
    else:
        found = _search(k, r, generator(seed, purpose="parity matrix"))
    found.flags.writeable = False
    return found


def worst_condition(parity: Matrix) -> float:
    """The largest 2-norm condition number of the matrix from the inputs to `k` answers that came.

    Over every pattern of `r` missing where there are at most 4,096, else over a sample of as many. It
    bounds how much larger a relative error of the answers may be in the decoded group.
    """
    r, k = parity.shape
    rows = _rows_that_came(k, r, _PATTERNS, generator(0, purpose="erasure patterns"))
    return _worst(parity, rows, enough=np.inf)[0]


def _search(k: int, r: int, rng: np.random.Generator) -> Matrix:
    """The best of some candidates, then changed at random for as long as that makes it better."""
    # A condition number costs k^3: for a large k fewer patterns are looked at.
    rows = _rows_that_came(k, r, max(256, min(_PATTERNS, 2_000_000 // k**2)), rng)
    best, least, step = np.full((r, k), 1 / k), np.inf, 0.5
    for trial in range(_STARTS + _STEPS):
        change = _change(k, r, rng)
        candidate = 1 / k + change if trial < _STARTS else best + step * change
        worst, at = _worst(candidate, rows, enough=least)
        rows[[0, at]] = rows[[at, 0]]  # the pattern that one candidate failed is likely to stop the next
        step *= 1.0 if trial < _STARTS else 1.4 if worst < least else 0.95
        if worst < least:
            best, least = candidate, worst
    return best


def _change(k: int, r: int, rng: np.random.Generator) -> Matrix:
    """Random rows of length about one, each with sum zero."""
    drawn = rng.standard_normal((r, k))
    centred: Matrix = (drawn - drawn.mean(axis=1, keepdims=True)) / np.sqrt(k)
    return centred


def _rows_that_came(k: int, r: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """`(patterns, k)`: which of the `k + r` rows are left, in an order that mixes patterns."""
    masks = erasure_patterns(k + r, r, limit=limit, rng=rng, fewest=r)
    return np.nonzero(rng.permutation(masks))[1].reshape(-1, k)


def _worst(parity: Matrix, rows: np.ndarray, *, enough: float) -> tuple[float, int]:
    """The largest condition number and where it is, or the first chunk's that reaches `enough`."""
    generating, worst, at = np.vstack([np.eye(parity.shape[1]), parity]), 0.0, 0
    for start in range(0, len(rows), _CHUNK):
        conditions = np.linalg.cond(generating[rows[start : start + _CHUNK]])
        if conditions.max() > worst:
            worst, at = float(conditions.max()), start + int(conditions.argmax())
        if worst >= enough:
            break
    return worst, at
