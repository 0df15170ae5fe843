"""A run of the built-in app on a site of this machine, from settings to a run folder; new or resumed."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import tomli_w

from fedeff.app.deployed import server_process, settings_of_run
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.settings import Settings
from fedeff.core.errors import EngineError, ResumeError
from fedeff.core.records import RoundRecord
from fedeff.deployment import Site
from fedeff.deployment.runs import run_on_site

__all__ = ["continue_on_site", "run_new_on_site", "written_app"]

OnRound = Callable[[RoundRecord], None]

# Flower reads the source: a component must be assigned in its module, an import will not do.
_COMPONENT = "from fedeff.app import {module}\n\napp = {module}.app\n"


def run_new_on_site(
    site: Site, settings: Settings, path: Path, on_round: OnRound, timeout_s: float | None = None
) -> RunFolder:
    """Run the built-in app in a new run folder and return it, with record, summary and report.

    Raises:
        ResumeError: if the folder holds anything.
        EngineError, DeploymentError: if the run fails, or the SuperLink does not answer.
    """
    if path.exists() and any(path.iterdir()):
        raise ResumeError(
            f"{path} exists already; continue it with --resume {path.name}, or choose another --name"
        )
    return _run(site, replace(settings, run_folder=str(path.absolute())), on_round, timeout_s)


def continue_on_site(
    site: Site, folder: RunFolder, on_round: OnRound, timeout_s: float | None = None
) -> RunFolder:
    """Finish a run that was stopped anywhere, to the same result; a finished one is left as it is.

    Raises:
        ResumeError: if the run is none of a deployment's.
        EngineError, DeploymentError: if the run fails, or the SuperLink does not answer.
    """
    settings = settings_of_run(folder)
    if folder.finished and folder.report_file.exists():
        return folder
    return _run(site, replace(settings, run_folder=str(folder.path.absolute())), on_round, timeout_s)


@contextmanager
def written_app(settings: Settings) -> Iterator[Path]:
    """A Flower app's folder around the built-in components, with these settings, while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="fedeff-app-") as made:
        package = Path(made) / "fedeff_app"
        package.mkdir()
        (package / "__init__.py").touch()
        for module in ("server", "client"):
            (package / f"{module}.py").write_text(_COMPONENT.format(module=module))
        components = {"serverapp": "fedeff_app.server:app", "clientapp": "fedeff_app.client:app"}
        app = {"publisher": "fedeff", "components": components, "config": settings.run_config()}
        project = {"name": "fedeff-app", "version": "1.0.0", "dependencies": []}
        (Path(made) / "pyproject.toml").write_text(
            tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
        )
        yield Path(made)


def _run(site: Site, settings: Settings, on_round: OnRound, timeout_s: float | None) -> RunFolder:
    folder = RunFolder(Path(settings.run_folder))
    before = folder.summary()
    with written_app(settings) as app:
        try:
            run_on_site(site, app, look=_Watch(folder, on_round), timeout_s=timeout_s)
        except EngineError as error:
            told = folder.summary()
            reason = f"{told.reason}; " if told and told != before and told.status == "failed" else ""
            raise EngineError(f"{reason}{error}") from error
    return folder


@dataclass
class _Watch:
    """Tells of rounds as they come on record, and whether the ServerApp that writes them has died."""

    folder: RunFolder
    on_round: OnRound
    seen: int = 0  # rounds told
    served_by: psutil.Process | None = None

    def __post_init__(self) -> None:
        if is_run(self.folder.path):
            rounds = self.folder.rounds()
            self.seen = rounds[-1].server_round if rounds else 0

    def __call__(self) -> str:
        """Why there is no point in waiting any longer; nothing while there is one."""
        if not is_run(self.folder.path):
            return ""
        rounds = self.folder.rounds()
        self.seen = min(self.seen, rounds[-1].server_round if rounds else 0)  # a resumed run repeats some
        for record in rounds[self.seen :]:
            self.on_round(record)
        self.seen = max(self.seen, len(rounds))
        return self._died()

    def _died(self) -> str:
        found = server_process(self.folder)
        if found is not None:
            self.served_by = found
            return ""
        if self.served_by is None or self.folder.finished:
            return ""
        if self.folder.summary() is not None:  # it ended, and Flower will know soon
            return ""
        return f"the ServerApp (pid {self.served_by.pid}) ended without a word; it was killed"
