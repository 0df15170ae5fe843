"""`fedeff deploy run`: one run on a site's SuperLink, watched to its end; new or resumed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedeff.cli.deploy_site import SITE, SiteFolder
from fedeff.core.errors import ConfigError, ResumeError

if TYPE_CHECKING:
    from rich.console import Console

    from fedeff.app.run_folder import RunFolder
    from fedeff.app.settings import Settings
    from fedeff.deployment import Site

__all__ = ["RUN_EXAMPLES", "run"]

RUN_EXAMPLES = (
    ("fedeff deploy run -c strategy=fedlama -c cohort=3", "on the site that `fedeff deploy up` started"),
    ("fedeff deploy run --resume NAME", "go on with a run that was stopped, killed or failed"),
    ("fedeff deploy run path/to/app", "any Flower app, unmodified"),
)


def run(
    app: Annotated[
        Path | None,
        typer.Argument(metavar="[APP]", help="A Flower app's folder. \\[default: the built-in app]"),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config", "-c", metavar="KEY=VALUE", help="A setting (repeat), or a TOML file of them."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the run folder. \\[default: the time]")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Go on with the run of this name.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where run folders go.")] = Path(
        "runs"
    ),
    site: SiteFolder = SITE,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Stop a run that takes longer.")
    ] = None,
) -> None:
    """Run an app on the site; ends when the run has ended, with exit status 1 if it failed."""
    from rich.console import Console

    from fedeff.app.foreign import is_built_in
    from fedeff.app.overrides import parse_overrides
    from fedeff.cli.settings import base_settings
    from fedeff.deployment import Site

    here, console = Site.read(site), Console()
    if resume is not None:
        if app is not None or config or name is not None:
            raise ResumeError("--resume takes all settings from the run; leave APP, -c and --name out")
        _resume(console, here, out / resume, site, timeout)
    elif app is not None and not is_built_in(app):
        if name is not None:
            raise ConfigError("--name is for the built-in app; a Flower app of others writes no run folder")
        _foreign(here, app, config or [], timeout)
    else:
        settings = base_settings(app, parse_overrides(config or []), None)
        _built_in(console, here, settings, out, name, site, timeout)


def _built_in(
    console: "Console",
    site: "Site",
    settings: "Settings",
    out: Path,
    name: str | None,
    given: Path,
    timeout_s: float | None,
) -> None:
    from fedeff.app.run_folder import dated_name
    from fedeff.app.site_runs import run_new_on_site
    from fedeff.cli.progress import watching

    settings.check_clients(site.clients)
    path = out / (name or dated_name(settings.strategy))
    with _resumable(path, out, given), watching(console, path.name, settings.num_server_rounds) as watch:
        folder = run_new_on_site(site, settings, path, watch, timeout_s)
    _finish(console, folder)


def _resume(console: "Console", site: "Site", path: Path, given: Path, timeout_s: float | None) -> None:
    from fedeff.app.deployed import settings_of_run
    from fedeff.app.run_folder import RunFolder
    from fedeff.app.site_runs import continue_on_site
    from fedeff.cli.progress import watching

    folder = RunFolder.open(path)
    rounds = settings_of_run(folder).num_server_rounds
    with _resumable(path, path.parent, given), watching(console, path.name, rounds) as watch:
        folder = continue_on_site(site, folder, watch, timeout_s)
    _finish(console, folder)


def _foreign(site: "Site", app: Path, config: list[str], timeout_s: float | None) -> None:
    from fedeff.deployment.runs import run_on_site

    run_on_site(site, app, tuple(config), timeout_s=timeout_s)
    print(f"{app} has completed")


def _finish(console: "Console", folder: "RunFolder") -> None:
    from fedeff.cli.running import finish, single

    finish(console, single(folder))


@contextmanager
def _resumable(path: Path, out: Path, site: Path) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted`, which says how to go on."""
    from fedeff.cli.running import Interrupted

    try:
        yield
    except KeyboardInterrupt as error:
        place = "" if out == Path("runs") else f" --out {out}"
        place += "" if site == SITE else f" --site {site}"
        raise Interrupted(
            f"interrupted; go on with: fedeff deploy run --resume {path.name}{place}"
        ) from error
