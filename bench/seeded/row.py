"""A row of a page: what one seed measures, and what is asked of all seeds together."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figure, Spread

__all__ = ["Case", "Measured", "Row", "difference", "ratio"]

Value = bool | int | float | str
Case = Mapping[str, float | None]  # by measure, such as "test accuracy, %"; None where it was not reached
Measured = Mapping[str, Case]  # of one seed, by case; the first is the baseline


@dataclass(frozen=True)
class Row:
    """Cases side by side, the first of which is the baseline.

    `run(seed)` measures all cases, in a process of its own; it is not repeated while `settings`, all
    that its result depends on beside the seed and the code, stay as they are. `figures` are those of
    several seeds. `note` says on what data, how the settings of both sides were found, and from which
    grids. `seeds` are those that nobody looked at while choosing settings. Rows that time nothing may
    run `beside_others`, one process a core.
    """

    key: str
    title: str
    settings: Mapping[str, Value]
    run: Callable[[int], Measured]
    figures: Callable[[Sequence[Measured]], list[Figure]]
    note: str
    seeds: range = range(3)
    beside_others: bool = False


def difference(seeds: Sequence[Measured], measure: str, case: str, other: str) -> Spread | None:
    """How much more a case measures than another, seed by seed; None where a value is missing."""
    pairs = _pairs(seeds, measure, case, other)
    return Spread(tuple(one - two for one, two in pairs)) if pairs else None


def ratio(seeds: Sequence[Measured], measure: str, case: str, other: str) -> Spread | None:
    """One case's value over another's, seed by seed, infinite over nothing; None where a value is missing."""
    pairs = _pairs(seeds, measure, case, other)
    return Spread(tuple(one / two if two else math.inf for one, two in pairs)) if pairs else None


def _pairs(seeds: Sequence[Measured], measure: str, case: str, other: str) -> list[tuple[float, float]]:
    values = [(measured[case][measure], measured[other][measure]) for measured in seeds]
    known = [(one, two) for one, two in values if one is not None and two is not None]
    return known if len(known) == len(values) else []
