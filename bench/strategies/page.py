"""The page of the comparisons: targets first, then a table each."""

import statistics
from collections.abc import Callable, Mapping

from bench.page import table
from bench.strategies.rows import LAST, STEPS, Comparison, Outcome

__all__ = ["page", "spread"]

_HEAD = f"""# Strategies

`make bench-strategies` writes this page; every run it rests on lies in a run folder with its own report.
Accuracy is the mean of a run's last {LAST} evaluations on the server's test data; figures are mean ± standard
deviation over seeds (in brackets how many are done). Bytes are payload: the sum of the serialised arrays
that went up or down in the whole run. All cases of a comparison take the same number of local steps; a
round to the target counts {STEPS} of them.
"""

Outcomes = Mapping[str, tuple[Outcome, ...]]


def page(done: Mapping[str, tuple[Comparison, Outcomes]], skipped: Mapping[str, str], machine: str) -> str:
    """The whole page, from the comparisons that have runs."""
    parts = [_HEAD, "## Targets\n", _targets(done)]
    for comparison, outcomes in done.values():
        parts += [f"## {comparison.title}\n", _cases(comparison, outcomes), comparison.note + "\n"]
    parts += [f"{key}: skipped, {why}.\n" for key, why in skipped.items()]
    return "\n".join([*parts, "## Machine\n", machine])


def _targets(done: Mapping[str, tuple[Comparison, Outcomes]]) -> str:
    lines = [
        [key, figure.what, figure.value, figure.target, figure.marked]
        for key, (comparison, outcomes) in done.items()
        for figure in comparison.targets(outcomes)
    ]
    return table(["comparison", "figure", "median over seeds (range)", "target", ""], lines)


def _cases(comparison: Comparison, outcomes: Outcomes) -> str:
    first = outcomes.get(comparison.cases[0].name, ())
    up = statistics.mean(one.uplink_bytes for one in first) if first else float("nan")
    target = f"{comparison.target_accuracy:.0%}"
    head = ["strategy", "accuracy", "uplink", "÷ first", "downlink", f"rounds to {target}"]
    timed = any(one.virtual_s_to_target is not None for runs in outcomes.values() for one in runs)
    head += [f"virtual s to {target}"] if timed else []
    lines = []
    for case in comparison.cases:
        runs = outcomes.get(case.name, ())
        if not runs:
            continue
        cells = [
            f"{case.label} ({len(runs)})",
            spread(runs, lambda one: 100 * one.accuracy, "%"),
            spread(runs, lambda one: one.uplink_bytes / 1e6, " MB"),
            f"{statistics.mean(one.uplink_bytes for one in runs) / up:.2f}",
            spread(runs, lambda one: one.downlink_bytes / 1e6, " MB"),
            spread(runs, lambda one: one.rounds_to_target),
        ]
        cells += [spread(runs, lambda one: one.virtual_s_to_target)] if timed else []
        lines.append(cells)
    return table(head, lines)


def spread(runs: tuple[Outcome, ...], read: Callable[[Outcome], float | None], unit: str = "") -> str:
    """Mean and deviation over seeds, and how many have no value; `never` where none has."""
    values = [value for one in runs if (value := read(one)) is not None]
    missed = len(runs) - len(values)
    if not values:
        return "never"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}{unit}" + (f", {missed} never" if missed else "")
