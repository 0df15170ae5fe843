"""Whether a rebuilt row points at the very row that was trained on, among decoys of its label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from fedeff.audit.judging.rates import chance_of

if TYPE_CHECKING:
    from fedeff.audit.truth import Truth

__all__ = ["DECOYS", "FEWEST_DECOYS", "chance_p_value", "draw_decoys", "identified", "not_in"]

NDArray = np.ndarray[Any, np.dtype[Any]]

DECOYS = 100
FEWEST_DECOYS = 19  # with fewer, chance alone finds the row once in less than 20 times: not tested


def draw_decoys(
    inputs: NDArray, labels: NDArray, truth: "Truth", rng: np.random.Generator, count: int = DECOYS
) -> tuple[NDArray, ...]:
    """For each true row others of its label, (k, *input_shape), drawn from `inputs` (n, ...) without repeats.

    Rows equal to one that was trained on are no decoys. Draw afresh for every trial. Labels of more
    than one number a row (text) are not compared: there every other row may be a decoy.
    """
    others = not_in(truth, inputs)
    chosen = []
    for row in range(len(truth)):
        alike = others if labels.ndim > 1 else others & (labels == truth.labels[row])
        places = np.flatnonzero(alike)
        chosen.append(inputs[rng.permutation(places)[:count]])
    return tuple(chosen)


def not_in(truth: "Truth", inputs: NDArray) -> NDArray:
    """Which of the rows (n, ...) are none of the truth's, booleans (n,), compared as float32 or tokens."""
    held = {row.tobytes() for row in _comparable(truth.inputs)}
    return np.array([row.tobytes() not in held for row in _comparable(inputs)], bool)


def _comparable(rows: NDArray) -> NDArray:
    return rows.astype(np.int64 if rows.dtype.kind in "iu" else np.float32)


def identified(rebuilt: NDArray, truth: NDArray, decoys: Sequence[NDArray]) -> list[bool | None]:
    """For each true row whether something rebuilt is nearer to it than anything is to any of its decoys.

    Nearness is the squared distance of pixels, of tokens the number that differ. No matching of rows
    comes first: it would favour the truth. Where the rebuilt rows (n, ...) do not depend on which row
    was trained on, a true row is as likely as each of its k decoys to lie nearest: 1 / (k + 1). A tie is
    no hit. None where a row has too few decoys to test.
    """
    found: list[bool | None] = []
    for row, others in zip(truth, decoys, strict=True):
        if len(others) < FEWEST_DECOYS:
            found.append(None)
        elif not len(rebuilt):
            found.append(False)
        else:
            nearest = _distances(rebuilt, np.concatenate([row[None], others])).min(axis=0)
            found.append(bool(nearest[0] < nearest[1:].min()))
    return found


def _distances(rebuilt: NDArray, candidates: NDArray) -> NDArray:
    """Of each rebuilt row from each candidate, (n, m)."""
    if candidates.dtype.kind in "iu":
        return np.stack([(candidates != one).sum(axis=1) for one in rebuilt])
    left, right = (rows.reshape(len(rows), -1).astype(float) for rows in (rebuilt, candidates))
    return np.asarray(cdist(left, right, "sqeuclidean"))


def chance_p_value(hits: int, tested: int, decoys: int) -> float:
    """How likely so many hits, or more, are by chance: the larger of two exact one-sided tests.

    The binomial one takes the rows' decoys as drawn independently. The permutation one takes all rows as
    judged against one set of decoys and one rebuilt row, the most that hits can hang together: the
    nearest `hits` of all rows and decoys are then all true ones, `C(n, h) / C(n + k, h)`.
    """
    if hits == 0:
        return 1.0
    alone = chance_of(hits, tested, 1 / (decoys + 1))
    together = float(np.exp(_log_choose(tested, hits) - _log_choose(tested + decoys, hits)))
    return max(alone, together)


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
