"""What else was measured of a run, round by round, such as how exactly a code was decoded."""

import math
from collections.abc import Callable

from fedeff.core.records import RoundRecord
from fedeff.report.curves import series_figure
from fedeff.report.page import Picture, Section
from fedeff.report.representation import OF_FEATURES
from fedeff.report.run import Run

__all__ = ["measures_section"]


def measures_section(run: Run) -> Section | None:
    """A picture of each measure that is not one of features; nothing where there is none."""
    names = sorted({name for record in run.rounds for name in record.measures} - OF_FEATURES)
    if not names:
        return None
    pictures = []
    for name in names:
        rounds = [record for record in run.rounds if name in record.measures]
        pictures.append(Picture(name, series_figure(rounds, [_read(name)], name)))
    last = run.rounds[-1]
    said = ", ".join(f"{name} {last.measures[name]:.3g}" for name in names if name in last.measures)
    intro = f"Round {last.server_round}: {said}." if said else "What was measured beside accuracy and loss."
    return Section("Measures", intro, tuple(pictures))


def _read(name: str) -> Callable[[RoundRecord], float | None]:
    def read(record: RoundRecord) -> float | None:
        value = record.measures.get(name, math.nan)
        return value if math.isfinite(value) else None

    return read
