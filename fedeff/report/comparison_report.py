"""The page of several runs laid over each other."""

import math
from collections.abc import Iterable
from pathlib import Path

from fedeff.report.comparison import Comparison, Group, Spread, compare_runs
from fedeff.report.curves import AXES, Axis, Curve, Read, accuracy_of, curve_figure, loss_of
from fedeff.report.page import Key, Page, Picture, Section, Table, Tile, write_page
from fedeff.report.units import Scale, byte_scale, percent, percent_scale, second_scale

__all__ = ["group_curve", "write_comparison"]


def write_comparison(run_dirs: Iterable[Path | str], out: Path | str) -> Path:
    """Write the page that compares runs and return its path.

    `out` is the file to write, or a folder that gets `comparison.html`.

    Raises:
        ConfigError: no run is given.
        DataError: a folder holds no run, or a record in it is broken.
    """
    out = Path(out)
    path = out if out.suffix == ".html" else out / "comparison.html"
    return write_page(comparison_page(compare_runs(run_dirs)), path)


def comparison_page(comparison: Comparison) -> Page:
    """The table on top, overlays below, then every run by its own."""
    runs = [run for group in comparison.groups for run in group.runs]
    seeds = max(len(group.runs) for group in comparison.groups)
    return Page(
        title=" vs ".join(group.label for group in comparison.groups)
        if len(comparison.groups) <= 3
        else f"{len(comparison.groups)} settings compared",
        subtitle=f"{len(runs)} runs" + (f", up to {seeds} seeds each" if seeds > 1 else ""),
        tiles=_tiles(comparison),
        alert="" if any(run.rounds for run in runs) else "Nothing to draw yet. No round is on record.",
        sections=tuple(
            section
            for section in (_outcome(comparison), _overlays(comparison), _every_run(comparison))
            if section is not None
        ),
    )


def group_curve(group: Group, axis: Axis, read: Read) -> Curve:
    """The mean over a group's runs at each round they share; the band is their sample deviation."""
    x, y, band = [], [], []
    for records in group.common_rounds():
        place = Spread.of(axis.read(r) for r in records)
        value = Spread.of(read(r) for r in records)
        if place and value and place.n == value.n == len(group.runs):
            x.append(place.mean)
            y.append(value.mean)
            band.append(0.0 if math.isnan(value.deviation) else value.deviation)
    return Curve(group.label, x, y, band)


def _outcome(comparison: Comparison) -> Section:
    intro = "Means over n seeds ± the sample standard deviation."
    if comparison.common_accuracy is not None:
        intro += f" Every run reached {percent(comparison.common_accuracy)}; the last rows say what it took."
    return Section("Outcome", intro, tables=(Table(*comparison.side_by_side()),))


def _tiles(comparison: Comparison) -> tuple[Tile, ...]:
    """Who is best at what matters, with the factor over the next."""
    wanted: list[tuple[str, str, Scale, bool]] = [
        ("Highest final accuracy", "Final accuracy", percent_scale, True)
    ]
    if comparison.common_accuracy is not None:
        level = percent(comparison.common_accuracy)
        wanted += [
            (f"Least uplink to {level}", f"Uplink to {level}", byte_scale, False),
            (f"Least virtual time to {level}", f"Virtual time to {level}", second_scale, False),
            (f"Least wall time to {level}", f"Wall time to {level}", second_scale, False),
        ]
    if len(comparison.groups) < 2:
        return ()
    return tuple(tile for name in wanted if (tile := _best_tile(comparison, *name)))


def _best_tile(
    comparison: Comparison, label: str, column: str, scale: Scale, high_is_good: bool
) -> Tile | None:
    found = [
        (spreads[column], group.label)
        for spreads, group in zip(comparison.spreads, comparison.groups, strict=True)
        if column in spreads
    ]
    if len(found) < 2:
        return None
    (best, name), (second, other), *_ = sorted(found, key=lambda pair: pair[0].mean, reverse=high_is_good)
    difference = abs(best.mean - second.mean)
    if difference == 0:
        return Tile(label, "equal", f"{best.said(scale)}, {name} and {other}")
    if high_is_good or not second.mean:
        versus = f"{100 * difference:.1f} points over {other}" if high_is_good else f"before {other}"
    else:
        versus = f"{best.mean / second.mean:.2f}× {other}"
    noise = max((s.deviation for s in (best, second) if s.n > 1), default=0.0)
    return Tile(
        label, name, f"{best.said(scale)}, {versus}" + (", within the spread" if difference < noise else "")
    )


def _overlays(comparison: Comparison) -> Section | None:
    pictures = [
        *(p for axis in AXES if (p := _overlay(comparison, axis, "Accuracy", accuracy_of))),
        *(p for axis in AXES[:1] if (p := _overlay(comparison, axis, "Loss", loss_of))),
    ]
    if not pictures:
        return None
    several = any(len(group.runs) > 1 for group in comparison.groups)
    intro = "Lines are means over seeds, bands one sample standard deviation." if several else ""
    if comparison.common_accuracy is not None:
        intro += " The dotted line is the accuracy that every run reached."
    if len(pictures) % 2:
        pictures[0] = pictures[0].widened()
    keys = tuple(Key(group.label, number) for number, group in enumerate(comparison.groups))
    return Section("Learning", intro.strip(), tuple(pictures), keys=keys)


def _overlay(comparison: Comparison, axis: Axis, name: str, read: Read) -> Picture | None:
    curves = [group_curve(group, axis, read) for group in comparison.groups]
    if not any(max(curve.x, default=0.0) > 0 for curve in curves):
        return None
    share = name == "Accuracy"
    level = comparison.common_accuracy if share else None
    drawn = curve_figure(curves, axis, name, share=share, level=level)
    return Picture(f"{name} against {axis.noun}", drawn)


def _every_run(comparison: Comparison) -> Section:
    shown = sum(" to " not in name for name in comparison.header)
    header = ("Run", "Seed", "Status", *comparison.header[2:shown])
    runs = [run for group in comparison.groups for run in group.runs]
    rows = tuple(
        (run.name, "–" if run.seed is None else str(run.seed), run.summary.status, *cells[2:shown])
        for run, cells in zip(runs, comparison.run_rows, strict=True)
    )
    return Section("Every run", tables=(Table(header, rows),))
