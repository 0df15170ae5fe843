"""From what the cases measured to figures: medians, spreads, ratios and verdicts."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure", "Results", "Spread"]

Sample = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """A median and the range around it, over repeats."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def map(self, change: Callable[[float], float]) -> "Spread":
        """The same values in another unit."""
        return Spread(tuple(map(change, self.values)))

    def text(self, digits: int = 2) -> str:
        """`1.05 (1.01-1.09)`, or the one value alone."""
        middle, low, high = (f"{x:,.{digits}f}" for x in (self.median, min(self.values), max(self.values)))
        return middle if len(self.values) == 1 else f"{middle} ({low}–{high})"


def _seconds(sample: Sample) -> float:
    return float(sample["median_s"])


@dataclass(frozen=True)
class Results:
    """What the cases of one row measured, by case and repeat."""

    samples: dict[str, list[Sample]]

    def spread(self, name: str, read: Callable[[Sample], float] = _seconds) -> Spread | None:
        """One number of a case over its repeats, by default seconds a round; None where none was measured."""
        values = self._values(name, read)
        return Spread(tuple(values.values())) if values else None

    def ratio(self, name: str, other: str, read: Callable[[Sample], float] = _seconds) -> Spread | None:
        """One case's number over another's, repeat by repeat; None where either was not measured.

        In a repeat that one of them did not run, its median stands for it.
        """
        above, below = self._values(name, read), self._values(other, read)
        if not above or not below:
            return None
        usual_above, usual_below = statistics.median(above.values()), statistics.median(below.values())
        repeats = sorted(above.keys() | below.keys())
        return Spread(tuple(above.get(r, usual_above) / below.get(r, usual_below) for r in repeats))

    def error(self, name: str) -> str:
        """Why a case has no result, empty where it has."""
        return next((sample["error"] for sample in self.samples.get(name, []) if "error" in sample), "")

    def _values(self, name: str, read: Callable[[Sample], float]) -> dict[int, float]:
        samples = enumerate(self.samples.get(name, []))
        return {repeat: read(sample) for repeat, sample in samples if "error" not in sample}


@dataclass(frozen=True)
class Figure:
    """A measured figure and what was asked of it, if anything."""

    what: str
    measured: Spread | None
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "×"
    digits: int = 2

    @property
    def verdict(self) -> str:
        """`PASS` or `short` by the median; empty where nothing was asked."""
        if self.measured is None:
            return "not measured"
        if self.at_most is None and self.at_least is None:
            return ""
        middle = self.measured.median
        good = (self.at_most is None or middle <= self.at_most) and (
            self.at_least is None or middle >= self.at_least
        )
        return "PASS" if good else "short"

    @property
    def marked(self) -> str:
        """The verdict, bold where it is not a good one."""
        return self.verdict if self.verdict in ("PASS", "") else f"**{self.verdict}**"

    @property
    def target(self) -> str:
        """Such as `≤ 1.15×`; a dash where nothing was asked."""
        sign, bound = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        if bound is None:
            return "—"
        return f"{sign} {bound:,g}{_suffix(self.unit)}"

    @property
    def value(self) -> str:
        """The measured value with its unit."""
        return "—" if self.measured is None else self.measured.text(self.digits) + _suffix(self.unit)


def _suffix(unit: str) -> str:
    return unit if unit in ("×", "%") else f" {unit}"
