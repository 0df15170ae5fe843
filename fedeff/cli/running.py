"""Running things in front of a user: progress, the table at the end, how to go on after Ctrl-C."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fedeff.cli.progress import watching
from fedeff.core.errors import ConfigError, DeploymentError, EngineError, ReplyError, StateError

if TYPE_CHECKING:
    from fedeff.app.run import OnRound, Plan
    from fedeff.app.run_folder import RunFolder
    from fedeff.app.sweep import Sweep

__all__ = [
    "RUN_FAILURES",
    "Interrupted",
    "Outcome",
    "RunsFailed",
    "check_tensorboard",
    "finish",
    "go_on",
    "resumable",
    "run_new",
    "run_sweep",
    "single",
    "tell",
]

# What stops a run that was well asked for: exit status 1, where a bad request has 2.
RUN_FAILURES = (EngineError, StateError, ReplyError, DeploymentError)


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says how to go on."""


class RunsFailed(Exception):
    """Some runs of a sweep failed; the others are done and compared."""


@dataclass(frozen=True)
class Outcome:
    """What was run: its folders, the report of them all, and what failed, in one line."""

    folders: list[Path]
    report: Path
    failure: str = ""


def tell(console: Console, notices: Iterable[str]) -> None:
    """Print each notice once, in its order."""
    for notice in dict.fromkeys(notices):
        console.print(Text(f"note: {notice}", style="yellow"))


def run_new(console: Console, plan: "Plan", path: Path) -> "RunFolder":
    """Run a checked plan in a new folder. Wrap it in `resumable`."""
    from fedeff.app.run import simulate

    return _watched(console, path, plan, lambda watch: simulate(plan, path, watch))


def go_on(console: Console, folder: "RunFolder") -> "RunFolder":
    """Finish a run that was stopped; of a finished one, what a kill kept from being written.

    Wrap it in `resumable`.
    """
    from fedeff.app.run import Plan, continue_run

    plan = Plan.of_run(folder)
    if folder.finished:
        console.print(f"{folder.name} is finished already", highlight=False)
        return continue_run(folder)
    return _watched(console, folder.path, plan, lambda watch: continue_run(folder, watch))


def single(folder: "RunFolder") -> Outcome:
    """What one finished run comes to."""
    if not folder.report_file.exists():
        folder.write_report()
    return Outcome([folder.path], folder.report_file)


def run_sweep(console: Console, sweep: "Sweep") -> Outcome:
    """Run what is left of a sweep, one run after the other, and write the comparison.

    A run that fails does not keep the others from running.
    """
    from fedeff.report import write_comparison

    failed = []
    with resumable(sweep.path):
        for name in sweep.runs:
            folder = sweep.folder(name)
            try:
                if folder is None:
                    run_new(console, sweep.plan(name), sweep.path / name)
                else:
                    go_on(console, folder)
            except RUN_FAILURES as error:
                failed.append(name)
                console.print(Text(f"{name} failed: {error}", style="red"))
    report = write_comparison(sweep.folders(), sweep.path / "comparison.html")
    failure = (
        f"{len(failed)} of {len(sweep.runs)} runs failed: {', '.join(failed)}; once the cause is gone, "
        f"repeat them with --resume --name {sweep.path.name}"
    )
    return Outcome(sweep.folders(), report, failure if failed else "")


def finish(console: Console, outcome: Outcome, tensorboard: bool = False) -> None:
    """Print the table of what was run and, as the last line, the path of its report.

    Raises:
        RunsFailed: after that, if some runs failed.
    """
    from fedeff.report import compare_runs, write_tensorboard

    if tensorboard:
        for folder in outcome.folders:
            write_tensorboard(folder)
    console.print(compare_runs(outcome.folders).table())
    print(outcome.report, flush=True)
    if outcome.failure:
        raise RunsFailed(outcome.failure)


def check_tensorboard(wanted: bool) -> None:
    """Raise `ConfigError` if curves for TensorBoard are wanted and it is not installed."""
    from importlib.util import find_spec

    if wanted and find_spec("tensorboard") is None:
        raise ConfigError('TensorBoard is not installed; run pip install "fedeff[tensorboard]"')


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted`, which says how to go on with the run or sweep in `path`."""
    try:
        yield
    except KeyboardInterrupt as error:
        place = "" if path.parent == Path("runs") else f" --out {path.parent}"
        raise Interrupted(
            f"interrupted; go on with: fedeff simulate --resume --name {path.name}{place}"
        ) from error


def _watched(
    console: Console, path: Path, plan: "Plan", run: Callable[["OnRound"], "RunFolder"]
) -> "RunFolder":
    settings, runtime = plan.settings, plan.runtime
    console.print(
        f"{path.name}: {settings.strategy}, {settings.model} on {settings.dataset}, {settings.partition}, "
        f"{settings.cohort} of {runtime.clients:,} clients a round",
        style="dim",
        highlight=False,
    )
    with watching(console, path.name, plan.settings.num_server_rounds) as watch:
        folder = run(watch)
    summary = folder.summary()
    if summary is not None and summary.status == "stopped":
        console.print(f"{path.name} stopped: {summary.reason}", highlight=False, markup=False)
    return folder
