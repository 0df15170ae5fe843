"""`fedeff codes plan`: which code for which delays."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from fedeff.cli.code_delays import delays_of
from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.codes.planning import Choice, Goal
    from fedeff.core.delays import DelayModel
    from fedeff.core.traces import Trace

__all__ = ["PLAN_EXAMPLES", "plan"]

PLAN_EXAMPLES = (
    ("fedeff codes plan --trace job.csv --overhead 0.5", "the best code for half as many tasks more"),
    ("fedeff codes plan --trace job.csv --target 2 --percentile 99", "the cheapest that meets a latency"),
    ("fedeff codes plan --delays bimodal:8,0.1 --workers 15", "for a delay model"),
)
_ROUNDS = 4000  # drawn of a delay model
_WORKERS = 12
_TIMES = "in median task times"


def plan(
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="CSV", help="Columns worker, time and a duration.")
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="The duration. \\[default: the last one]")
    ] = None,
    delays: Annotated[
        str | None,
        typer.Option("--delays", metavar="SPEC", help="A model in place of a trace, such as pareto:2."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", help="Of a model; a trace has its own. \\[default: 12]"),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option("--target", metavar="X", help="Latency to meet, in median task times."),
    ] = None,
    overhead: Annotated[
        float | None,
        typer.Option("--overhead", metavar="R/K", help="Redundancy to keep within. \\[default: 0.5]"),
    ] = None,
    percentile: Annotated[
        float, typer.Option("--percentile", metavar="P", help="Of the latency that counts.")
    ] = 99.0,
    of: Annotated[
        Literal["item", "group"],
        typer.Option(
            "--of", metavar="item|group", help="Whose latency counts: a group's is its last item's."
        ),
    ] = "item",
    size: Annotated[
        int | None, typer.Option("--k", metavar="K", help="Items of a group. \\[default: chosen]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the delays drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Choose k and r from a trace's or a model's delays: one half chooses, the other says what it gives.

    What is chosen is for codes that answer a group from any k of its k + r tasks, with nothing queueing.
    """
    import json

    from fedeff.codes.latency import slowdowns
    from fedeff.codes.planning import Goal, choose

    asked = 0.5 if target is None and overhead is None else overhead
    goal = Goal(target, asked, percentile, of, size)
    model = delays_of(trace, column, delays, seed)
    count, rounds = _sizes(model, workers)
    choice = choose(slowdowns(model, count, range(rounds)), goal)
    if as_json:
        print(json.dumps(asdict(choice), indent=1))
    else:
        _show(Console(), model, goal, choice)


def _sizes(delays: "DelayModel", workers: int | None) -> tuple[int, int]:
    """How many workers to plan for, and how many rounds of their delays to look at."""
    from fedeff.core.traces import Trace

    if not isinstance(delays, Trace):
        return _WORKERS if workers is None else workers, _ROUNDS
    rounds, there = delays.durations.shape
    if workers is not None and workers > there:
        raise ConfigError(
            f"--workers {workers}, but {delays.source} has {there}; leave it out or ask for fewer"
        )
    return there if workers is None else workers, rounds


def _show(console: Console, model: "DelayModel", goal: "Goal", choice: "Choice") -> None:
    from rich.table import Table
    from rich.text import Text

    from fedeff.core.traces import Trace

    if isinstance(model, Trace):
        _show_trace(console, model)
    what = f"p{goal.percentile:g} of {'an item' if goal.of == 'item' else 'a group'}"
    asked = f"overhead <= {goal.overhead:g}" if goal.target is None else f"{what} <= {goal.target:g}"
    title = f"k = {choice.k}, r = {choice.r}: overhead {choice.r / choice.k:.0%} (asked: {asked})"
    console.print(Text(title, style="bold green" if choice.met else "bold red"))
    told = (
        f"  {what}: {choice.chosen_on:.3g} where it was chosen, {choice.checked_on:.3g} where it was checked"
    )
    console.print(told, highlight=False)
    if not choice.met:
        console.print("  the target is not met in the check; allow more workers, or a higher target")
    table = Table(
        box=None, title=f"Latency {_TIMES}, of the half that was not looked at", title_justify="left"
    )
    table.add_column("way", style="cyan")
    for name in ("overhead", "item p50", "p99", "p99.9", "group p50", "p99", "busy an item"):
        table.add_column(name, justify="right")
    for one in choice.measures:
        latencies = (one.item_p50, one.item_p99, one.item_p999, one.group_p50, one.group_p99, one.busy)
        table.add_row(one.name, f"{one.overhead:.0%}", *(f"{value:.3g}" for value in latencies))
    console.print(table)


def _show_trace(console: Console, trace: "Trace") -> None:
    from fedeff.codes.fitting import fit_delays, togetherness

    rounds, workers = trace.durations.shape
    told = togetherness(trace)
    console.print(f"{trace.source}: {workers} workers, {rounds} rounds", highlight=False, soft_wrap=True)
    fits = ", ".join(f"{one.spec} ({one.distance:.2f})" for one in fit_delays(trace))
    console.print(
        f"  looks like (KS distance): {fits or 'no model: durations do not vary'}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"  slow (2x the median): {told.slow:.1%} of tasks; two or more at once in {told.several:.1%} of"
        f" rounds, {told.independent:.1%} if workers were independent",
        highlight=False,
        soft_wrap=True,
    )
