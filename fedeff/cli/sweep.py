"""`fedeff sweep`: every combination of some settings and seeds, each run in its own folder."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedeff.cli.options import PANEL, RunOptions, with_run_options
from fedeff.cli.running import check_tensorboard, finish, run_sweep, tell
from fedeff.cli.settings import checked_runs, chosen_strategies
from fedeff.core.errors import ConfigError, ResumeError

if TYPE_CHECKING:
    from fedeff.app.sweep import Sweep

__all__ = ["EXAMPLES", "sweep"]

EXAMPLES = (
    ("fedeff sweep -s fedavg -s fedlama --seeds 3", "two strategies, three seeds each: six runs"),
    ("fedeff sweep -c learning-rate=0.02,0.05,0.1 -c cohort=50 --name rates", "three step sizes"),
    ("fedeff sweep --resume --name rates", "finish a sweep that was stopped; finished runs are kept"),
)


@with_run_options
def sweep(
    options: RunOptions,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            metavar="KEY=A,B,C",
            help="A setting and its values (repeat).",
            rich_help_panel=PANEL,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="N", help="Runs of each setting. \\[default: 1]", rich_help_panel=PANEL
        ),
    ] = None,
) -> None:
    """Run every combination of the settings' values, and compare.

    The built-in app only. A sweep that was stopped anywhere goes on with --resume.
    """
    console = Console()
    check_tensorboard(options.tensorboard)
    if options.resume:
        options.refuse_beside_resume(("run-config", config), ("seeds", seeds))
        begun = _begun(options)
    else:
        begun = _new(console, options, config or [], 1 if seeds is None else seeds)
    finish(console, run_sweep(console, begun), options.tensorboard)


def _begun(options: RunOptions) -> "Sweep":
    from fedeff.app.sweep import Sweep

    if options.name is None:
        raise ResumeError("--resume needs the --name of a sweep")
    return Sweep.open(options.path(options.name))


def _new(console: Console, options: RunOptions, config: list[str], seeds: int) -> "Sweep":
    from fedeff.app.overrides import parse_axes
    from fedeff.app.run_folder import dated_name
    from fedeff.app.settings import Settings
    from fedeff.app.sweep import Sweep, grid

    axes = parse_axes(config)
    if named := chosen_strategies(options.strategy or [], axes):
        axes = {"strategy": named, **axes} if options.strategy else axes
    runs = grid(Settings(), axes, seeds)
    if len(runs) == 1:
        raise ConfigError("one run is no sweep; give --seeds N, several --strategy or -c key=a,b,c")
    runtime = options.runtime()
    checked, notices = checked_runs(runs, runtime)
    tell(console, notices)
    return Sweep.create(options.path(dated_name("sweep")), runtime, checked)
