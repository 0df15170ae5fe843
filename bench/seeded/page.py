"""A page of results: targets first, then a table for each row."""

import statistics
from collections.abc import Mapping, Sequence

from bench.page import table
from bench.seeded.row import Measured, Row

__all__ = ["page"]


def page(head: str, rows: Mapping[str, Row], done: Mapping[str, Sequence[Measured]], machine: str) -> str:
    """The whole page, from the rows that have been measured."""
    measured = {key: row for key, row in rows.items() if done.get(key)}
    parts = [head, "## Targets\n", _targets(measured, done)]
    for key, row in measured.items():
        parts += [f"## {row.title}\n", _cases(done[key]), row.note.strip() + "\n"]
    return "\n".join([*parts, "## Machine\n", machine])


def _targets(rows: Mapping[str, Row], done: Mapping[str, Sequence[Measured]]) -> str:
    lines = [
        [key, figure.what, figure.value, figure.target, figure.marked]
        for key, row in rows.items()
        for figure in row.figures(done[key])
    ]
    return table(["row", "figure", "measured", "target", ""], lines)


def _cases(seeds: Sequence[Measured]) -> str:
    names = list(dict.fromkeys(name for measured in seeds for name in measured))
    measures = list(
        dict.fromkeys(measure for measured in seeds for case in measured.values() for measure in case)
    )
    lines = [
        [name, *(_cell(seeds, name, measure) for measure in measures), _count(seeds, name)] for name in names
    ]
    return table(["case", *measures, "seeds"], lines)


def _cell(seeds: Sequence[Measured], name: str, measure: str) -> str:
    found = [measured.get(name, {}).get(measure) for measured in seeds]
    values = [value for value in found if value is not None]
    if not values:
        return "—"
    digits = max(0, 3 - len(str(int(abs(statistics.mean(values))))))
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    missed = f", {len(found) - len(values)} never" if len(values) < len(found) else ""
    return f"{statistics.mean(values):,.{digits}f}{spread}{missed}"


def _count(seeds: Sequence[Measured], name: str) -> str:
    return str(sum(name in measured for measured in seeds))
