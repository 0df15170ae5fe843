"""Options that `simulate` and `sweep` share, and the values they come to."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.app.runtime import Runtime

__all__ = ["PANEL", "RunOptions", "with_run_options"]

PANEL = "The run"
_WHERE, _TIME = "Where it runs", "Virtual time"


def _run(*names: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=PANEL)


def _where(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=_WHERE)


def _time(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=_TIME)


_CLIENTS = _run("--clients", "-n", metavar="N", help="Simulated clients. \\[default: 1000]")
_STRATEGY = _run(
    "--strategy",
    "-s",
    metavar="NAME",
    help="Such as fedavg or fedlama (the settings list all); repeat to compare.",
)
_NAME = _run("--name", metavar="NAME", help="Of the run's folder. \\[default: date, time, strategy]")
_OUT = _run("--out", metavar="FOLDER", help="Where run folders go.")
_RESUME = _run("--resume", help="Go on with the run --name, to the same result bit for bit.")
_TENSORBOARD = _run("--tensorboard", help="Also write the run's curves for TensorBoard.")
_ENGINE = _where("--engine", metavar="ray|inline", help="Worker processes, or this one. \\[default: ray]")
_ACTORS = _where("--actors", metavar="N", help="Worker processes. \\[default: one a processor]")
_BLOCK_SIZE = _where("--block-size", metavar="N", help="Clients that travel together.")
_NUM_GPUS = _where("--num-gpus", metavar="X", help="GPUs of each worker, such as 0.5.")
_RAY_ADDRESS = _where("--ray-address", metavar="ADDRESS", help='An existing Ray cluster, such as "auto".')
_DELAYS = _time(
    "--delays",
    metavar="MODEL",
    help="Slowdown of clients: exponential:1,1 pareto:2,1 weibull:0.5,1 bimodal:8,0.1.",
)
_TRACE = _time("--trace", metavar="CSV", help="Slowdown from a trace: worker,time,duration.")
_SECONDS_PER_STEP = _time("--seconds-per-step", metavar="S", help="Of one batch. \\[default: 0.01]")
_LATENCY = _time("--latency", metavar="S", help="One way, in seconds. \\[default: 0]")
_BANDWIDTH = _time("--bandwidth", metavar="BYTES/S", help="Of a client's link. \\[default: unlimited]")


@dataclass(frozen=True)
class RunOptions:
    """What was given of the options that every command takes which runs something; None where not.

    The order of the fields is that of the help; their annotations are typer's.
    """

    clients: Annotated[int | None, _CLIENTS] = None
    strategy: Annotated[list[str] | None, _STRATEGY] = None
    name: Annotated[str | None, _NAME] = None
    out: Annotated[Path, _OUT] = Path("runs")
    resume: Annotated[bool, _RESUME] = False
    tensorboard: Annotated[bool, _TENSORBOARD] = False
    engine: Annotated[str | None, _ENGINE] = None
    actors: Annotated[int | None, _ACTORS] = None
    block_size: Annotated[int | None, _BLOCK_SIZE] = None
    num_gpus: Annotated[float | None, _NUM_GPUS] = None
    ray_address: Annotated[str | None, _RAY_ADDRESS] = None
    delays: Annotated[str | None, _DELAYS] = None
    trace: Annotated[Path | None, _TRACE] = None
    seconds_per_step: Annotated[float | None, _SECONDS_PER_STEP] = None
    latency: Annotated[float | None, _LATENCY] = None
    bandwidth: Annotated[float | None, _BANDWIDTH] = None

    def path(self, otherwise: str) -> Path:
        """The folder of the run: `--name` in `--out`, or another name where none was given."""
        return self.out / (self.name or otherwise)

    def runtime(self) -> "Runtime":
        """The runtime that the options ask for; those left out keep its defaults.

        Raises:
            ConfigError: for an impossible value, or a trace beside another delay model.
        """
        from fedeff.app.runtime import Runtime

        known = {one.name for one in fields(Runtime)}
        named = {_IN_RUNTIME.get(name, name): value for name, value in self._given().items()}
        given = {name: value for name, value in named.items() if name in known}
        if self.trace is not None:
            if self.delays is not None:
                raise ConfigError("--trace and --delays both say how slow clients are; give one of them")
            given["delays"] = f"trace:{self.trace.expanduser().resolve()}"
        return Runtime(**given)

    def refuse_beside_resume(self, *others: tuple[str, object]) -> None:
        """Raise `ConfigError` if an option is given that a resumed run takes from its own folder.

        `others` are the command's own, each its name and what was given.
        """
        taken = {name: value for name, value in self._given().items() if name not in _OF_RESUME}
        for name, value in (*taken.items(), *others):
            if value not in (None, []):
                raise ConfigError(
                    f"--{name.replace('_', '-')} cannot change a run that --resume continues; "
                    "leave it out, or start a new run under another --name"
                )

    def _given(self) -> dict[str, Any]:
        """The options that are not None, by field."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


_OF_RESUME = {"name", "out", "resume", "tensorboard"}  # options that may stand beside it
_IN_RUNTIME = {"latency": "latency_s", "bandwidth": "bandwidth_bytes_per_s"}  # elsewhere as it is


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer wants it: its own options, then those of `RunOptions`, in one signature.

    typer makes options of a function's parameters; the command gets the shared ones as its first.
    """
    annotations = get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=annotations[one.name]
        )
        for one in fields(RunOptions)
    ]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        options = RunOptions(**{one.name: given.pop(one.name) for one in shared})
        command(options, **given)

    called.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return called
