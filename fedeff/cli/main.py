"""The `fedeff` command: what it can do, and how it ends.

Exit status: 0 done, 1 a run failed, 2 a request that cannot be met (one line says why), 130 Ctrl-C. Of
`fedeff audit` 0, 1 and 2 are verdicts, and whatever keeps an audit from being made is 3.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from fedeff.cli import compare, plan, simulate, sweep
from fedeff.cli.audit import audit
from fedeff.cli.codes import codes
from fedeff.cli.data import data
from fedeff.cli.deploy import deploy
from fedeff.cli.running import RUN_FAILURES, Interrupted, RunsFailed
from fedeff.cli.teaching import teaching
from fedeff.core.errors import FedeffError

__all__ = ["command", "main"]

command = typer.Typer(
    help="Efficient federated learning on Flower: simulate, sweep, compare, plan, deploy, audit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command.command("simulate", cls=teaching(*simulate.EXAMPLES, settings=True))(simulate.simulate)
command.command("sweep", cls=teaching(*sweep.EXAMPLES, settings=True))(sweep.sweep)
command.command("compare", cls=teaching(*compare.EXAMPLES))(compare.compare)
command.command("plan", cls=teaching(*plan.EXAMPLES))(plan.plan)
command.add_typer(audit, name="audit")
command.add_typer(codes, name="codes")
command.add_typer(data, name="data")
command.add_typer(deploy, name="deploy")


def _print_versions(wanted: bool) -> None:
    if wanted:
        print(_versions())
        raise typer.Exit


@command.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Print the versions that matter."
        ),
    ] = False,
) -> None:
    """Efficient federated learning on Flower: simulate, sweep, compare, plan, deploy, audit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` without arguments) and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # An audit that was not made must not look like one that found a leak, or nothing.
    failed, refused = (3, 3) if given[:1] == ["audit"] else (1, 2)
    try:
        return _status(command(given, standalone_mode=False))
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        return _end(refused, f"error: {error.format_message().rstrip('.')}{where}")
    except (KeyboardInterrupt, click.Abort):
        return _end(130, "interrupted")
    except Interrupted as error:
        return _end(130, str(error))
    except RunsFailed as error:
        return _end(failed, f"error: {error}")
    except FedeffError as error:
        return _end(failed if isinstance(error, RUN_FAILURES) else refused, f"error: {error}")
    except OSError as error:
        return _end(failed, f"error: {error}")
    except Exception as error:
        traceback.print_exc()
        return _end(failed, f"error: {type(error).__name__}: {error}")


def _status(returned: object) -> int:
    # Without its standalone mode click returns the status of an Exit, such as that of --help.
    return returned if isinstance(returned, int) else 0


def _end(status: int, message: str) -> int:
    """Print one line in red on stderr; the status."""
    from rich.console import Console
    from rich.text import Text

    line = " ".join(message.split())
    Console(stderr=True).print(Text(line, style="red"), soft_wrap=True)
    return status


def _versions() -> str:
    from importlib.metadata import version

    from fedeff import __version__

    parts = ", ".join(f"{name} {version(name)}" for name in ("flwr", "torch", "ray"))
    return f"fedeff {__version__} ({parts})"


if __name__ == "__main__":
    sys.exit(main())
