"""Several runs side by side: seeds gathered into groups, means with their spread, who is cheaper.

Runs whose settings differ in nothing but the seed form a group. A spread is the sample standard
deviation over a group's runs (n - 1 in the denominator) and is always shown with n; one run has
none. Runs of a group that ended early shorten the group's curve, never its table.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedeff.core.errors import ConfigError
from fedeff.core.records import RoundRecord
from fedeff.report.curves import accuracy_of
from fedeff.report.run import Run, read_run
from fedeff.report.units import (
    Scale,
    byte_scale,
    percent,
    percent_scale,
    second_scale,
    unit_scale,
    with_spread,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Comparison", "Group", "Spread", "compare_runs"]

_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Spread:
    """A mean over n runs and their sample standard deviation, NaN for one run."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """The spread of the values that there are; None where there are none."""
        kept = [value for value in values if value is not None and math.isfinite(value)]
        if not kept:
            return None
        mean = math.fsum(kept) / len(kept)
        squares = math.fsum((value - mean) ** 2 for value in kept)
        return cls(mean, math.sqrt(squares / (len(kept) - 1)) if len(kept) > 1 else math.nan, len(kept))

    def said(self, scale: Scale) -> str:
        """`mean ± deviation` in a fitting unit; the mean alone for one run or equal values."""
        return with_spread(self.mean, self.deviation, scale)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, in the order of their seeds."""

    label: str
    runs: tuple[Run, ...]

    def spread(self, read: Callable[[Run], float | None]) -> Spread | None:
        """Mean and deviation over the runs that have the value."""
        return Spread.of(read(run) for run in self.runs)

    def common_rounds(self) -> list[tuple[RoundRecord, ...]]:
        """For each round that every run has, its records in the order of the runs."""
        by_round = [{r.server_round: r for r in run.rounds} for run in self.runs]
        shared = sorted(set.intersection(*(set(records) for records in by_round)))
        return [tuple(records[number] for records in by_round) for number in shared]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order in which they were named, as a table in three forms.

    `header` and `rows` are the table itself; `spreads` holds the numbers behind each row by column.
    """

    groups: tuple[Group, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    run_rows: tuple[tuple[str, ...], ...]  # the same columns for every run by itself, named by folder
    spreads: tuple[dict[str, Spread], ...]
    common_accuracy: float | None  # the highest accuracy that every run reached

    def side_by_side(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Header and rows with one column for each group where they are few, else one row for each."""
        if len(self.groups) > _SIDE_BY_SIDE:
            return self.header, self.rows
        lines = [tuple(line[i] for line in (self.header, *self.rows)) for i in range(len(self.header))]
        return lines[0], tuple(lines[1:])

    def markdown(self) -> str:
        """The table as GitHub-flavoured markdown."""
        lines = [self.header, tuple("---" if i == 0 else "---:" for i in range(len(self.header))), *self.rows]
        return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)

    def table(self) -> "RichTable":
        """The table for a terminal (`rich.print`); up to four groups stand side by side."""
        from rich.table import Table
        from rich.text import Text

        header, rows = self.side_by_side()
        table = Table(header_style="bold")
        for number, name in enumerate(header):
            table.add_column(Text(name), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def compare_runs(run_dirs: Iterable[Path | str]) -> Comparison:
    """Read the runs, gather seeds into groups, and lay out their table.

    Raises:
        ConfigError: no run is given.
        DataError: a folder holds no run, or a record in it is broken.
    """
    runs = [read_run(folder) for folder in run_dirs]
    if not runs:
        raise ConfigError("no run to compare; name at least one run folder")
    groups = _grouped(runs)
    common = common_accuracy(runs)
    columns = [column for column in _columns(common) if any(map(column[1], runs))]

    def row(group: Group, first: str) -> tuple[str, ...]:
        size = len(group.runs)
        return first, str(size), *(_cell(group.spread(read), size, scale) for _, read, scale in columns)

    return Comparison(
        groups=groups,
        header=("Run", "n", *(name for name, _, _ in columns)),
        rows=tuple(row(group, group.label) for group in groups),
        run_rows=tuple(row(Group(run.name, (run,)), run.name) for group in groups for run in group.runs),
        spreads=tuple(
            {name: found for name, read, _ in columns if (found := group.spread(read))} for group in groups
        ),
        common_accuracy=common,
    )


def best_accuracy(run: Run) -> float | None:
    """The highest accuracy on the record of a run."""
    return max((a for r in run.rounds if (a := accuracy_of(r)) is not None), default=None)


def common_accuracy(runs: Iterable[Run]) -> float | None:
    """The highest accuracy that every run reached at some time; None if one has no accuracy."""
    bests = [best_accuracy(run) for run in runs]
    return None if None in bests else min((best for best in bests if best is not None), default=None)


def reached(run: Run, accuracy: float) -> RoundRecord | None:
    """The first round whose accuracy is at least this; None where the run never gets there."""
    return next((r for r in run.rounds if (a := accuracy_of(r)) is not None and a >= accuracy), None)


def _columns(
    common: float | None,
) -> list[tuple[str, Callable[[Run], float | None], Scale]]:
    def at_common(read: Callable[[RoundRecord], float | None]) -> Callable[[Run], float | None]:
        def value(run: Run) -> float | None:
            record = None if common is None else reached(run, common)
            return None if record is None else read(record)

        return value

    level = percent(common)
    return [
        ("Final accuracy", _final_accuracy, percent_scale),
        ("Best accuracy", best_accuracy, percent_scale),
        ("Rounds", lambda run: float(sum(r.server_round > 0 for r in run.rounds)), unit_scale),
        ("Uplink", lambda run: _last(run, lambda r: float(r.uplink_bytes_total)), byte_scale),
        ("Downlink", lambda run: _last(run, lambda r: float(r.downlink_bytes_total)), byte_scale),
        ("Wall time", lambda run: _last(run, lambda r: r.wall_s_total), second_scale),
        ("Virtual time", lambda run: _last(run, lambda r: r.virtual_s_total), second_scale),
        (f"Rounds to {level}", at_common(lambda r: float(r.server_round)), unit_scale),
        (f"Uplink to {level}", at_common(lambda r: float(r.uplink_bytes_total)), byte_scale),
        (f"Virtual time to {level}", at_common(lambda r: r.virtual_s_total), second_scale),
        (f"Wall time to {level}", at_common(lambda r: r.wall_s_total), second_scale),
    ]


def _cell(spread: Spread | None, runs: int, scale: Scale) -> str:
    if spread is None:
        return "–"
    return spread.said(scale) + (f" (n={spread.n})" if spread.n != runs else "")


def _final_accuracy(run: Run) -> float | None:
    return next((a for r in reversed(run.rounds) if (a := accuracy_of(r)) is not None), None)


def _last(run: Run, read: Callable[[RoundRecord], float | None]) -> float | None:
    return read(run.rounds[-1]) if run.rounds else None


def _grouped(runs: Sequence[Run]) -> tuple[Group, ...]:
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(_key(run), []).append(run)
    labels = _labels([group[0] for group in members.values()])
    return tuple(
        Group(label, tuple(sorted(group, key=lambda run: run.seed or 0)))
        for label, group in zip(labels, members.values(), strict=True)
    )


def _key(run: Run) -> str:
    """What runs of one group share; a run without settings is alone unless its name is shared."""
    identity = run.identity()
    return repr((run.strategy, sorted(identity.items(), key=lambda item: item[0])) if identity else run.name)


def _labels(firsts: Sequence[Run]) -> list[str]:
    """For each group its strategy and the settings in which the groups differ."""
    identities = [run.identity() for run in firsts]
    names = dict.fromkeys(name for identity in identities for name in identity)
    differing = [
        name
        for name in names
        if name.rpartition(".")[2] != "strategy" and len({repr(i.get(name)) for i in identities}) > 1
    ]
    return [_label(run, identity, differing) for run, identity in zip(firsts, identities, strict=True)]


def _label(run: Run, identity: dict[str, Any], differing: Sequence[str]) -> str:
    parts = [f"{name.rpartition('.')[2]}={identity[name]}" for name in differing if name in identity]
    if len(parts) > 3 or not identity:
        return run.name
    return " ".join([run.strategy or run.name, *parts])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
