"""`fedeff simulate`: one run, or several strategies side by side, of the built-in or any Flower app."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedeff.cli.options import PANEL, RunOptions, with_run_options
from fedeff.cli.progress import watching
from fedeff.cli.running import (
    Interrupted,
    Outcome,
    check_tensorboard,
    finish,
    go_on,
    resumable,
    run_new,
    run_sweep,
    single,
    tell,
)
from fedeff.cli.settings import base_settings, checked_runs, chosen_strategies
from fedeff.core.errors import ConfigError, ResumeError

__all__ = ["EXAMPLES", "simulate"]

EXAMPLES = (
    ("fedeff simulate", "FedAvg beside layer-wise averaging, 1,000 clients of real data"),
    ("fedeff simulate -s fedavg -n 100 -c cohort=10 -c model=mlp", "one strategy, other settings"),
    ("fedeff simulate -s fedavg --delays pareto:1.2 --bandwidth 1e6", "with stragglers, on a virtual clock"),
    ("fedeff simulate --resume --name demo", "go on with a run that was stopped"),
    ("fedeff simulate path/to/app -n 50 -c num-server-rounds=5", "any Flower app, unmodified"),
)
_COMPARED = ("fedavg", "fedlama")  # what `fedeff simulate` shows where no strategy is named


@with_run_options
def simulate(
    options: RunOptions,
    app: Annotated[
        Path | None,
        typer.Argument(metavar="[APP]", help="A Flower app's folder. \\[default: the built-in app]"),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            metavar="KEY=VALUE",
            help="A setting (repeat), or a TOML file of them.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Of every random draw. \\[default: 0]", rich_help_panel=PANEL
        ),
    ] = None,
    coded_eval: Annotated[
        str | None,
        typer.Option(
            "--coded-eval",
            metavar="CODE:K,R",
            help="Evaluate on Ray actors under a code, such as replication:2,1 (as -c coded-eval=...).",
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> None:
    """Simulate federated learning and write a run folder with a report.

    Without --strategy it runs FedAvg beside layer-wise averaging and compares them.
    """
    console = Console()
    check_tensorboard(options.tensorboard)
    if coded_eval is not None:
        config = [*(config or []), f"coded-eval={coded_eval}"]
    if options.resume:
        options.refuse_beside_resume(("run-config", config), ("seed", seed))
        outcome = _resume(console, app, options)
    elif app is not None and not _is_built_in(app):
        outcome = _foreign(console, app, options, config or [], seed)
    else:
        outcome = _built_in(console, app, options, config or [], seed)
    finish(console, outcome, options.tensorboard)


def _built_in(
    console: Console, app: Path | None, options: RunOptions, config: list[str], seed: int | None
) -> Outcome:
    from fedeff.app.overrides import parse_overrides
    from fedeff.app.run import Plan
    from fedeff.app.run_folder import dated_name
    from fedeff.app.sweep import Sweep, grid

    overrides = parse_overrides(config)
    strategies = chosen_strategies(options.strategy or [], overrides) or _COMPARED
    runtime = options.runtime()
    base = base_settings(app, overrides, seed)
    runs, notices = checked_runs(grid(base, {"strategy": strategies}), runtime)
    path = options.path(dated_name("-".join(runs)))
    tell(console, notices)
    if len(runs) == 1:
        (settings,) = runs.values()
        with resumable(path):
            return single(run_new(console, Plan(settings, runtime), path))
    return run_sweep(console, Sweep.create(path, runtime, runs))


def _foreign(
    console: Console, app: Path, options: RunOptions, config: list[str], seed: int | None
) -> Outcome:
    from fedeff.app.foreign import ForeignApp, simulate_foreign
    from fedeff.app.overrides import parse_overrides
    from fedeff.app.run_folder import dated_name

    if options.strategy:
        raise ConfigError(f"--strategy is for the built-in app; {app} brings its own, leave the option out")
    if options.clients is None:
        raise ConfigError("a Flower app does not say how many clients it has; give --clients N")
    runtime = options.runtime()
    loaded = ForeignApp.load(app, parse_overrides(config))
    path = options.path(dated_name(loaded.name))
    try:
        with watching(console, path.name, loaded.rounds, live=False) as watch:
            return single(simulate_foreign(loaded, runtime, path, seed=seed, on_round=watch))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; the rounds so far are in {path}. A Flower app of others cannot be resumed"
        ) from error


def _resume(console: Console, app: Path | None, options: RunOptions) -> Outcome:
    from fedeff.app.run_folder import RunFolder
    from fedeff.app.sweep import Sweep, is_sweep

    if app is not None and not _is_built_in(app):
        raise ResumeError(
            f"{app} cannot be resumed: a Flower app's strategy starts at round 1 and keeps its state "
            "to itself; run it again under another --name"
        )
    if options.name is None:
        raise ResumeError(f"--resume needs the --name of a run in {options.out}")
    path = options.path(options.name)
    if is_sweep(path):
        return run_sweep(console, Sweep.open(path))
    with resumable(path):
        return single(go_on(console, RunFolder.open(path)))


def _is_built_in(app: Path) -> bool:
    from fedeff.app.foreign import is_built_in

    return is_built_in(app)
