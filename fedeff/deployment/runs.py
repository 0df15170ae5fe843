"""A run on a site's SuperLink: started, watched to its end, stopped; what its ServerApp said."""

import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedeff.core.errors import DeploymentError, EngineError
from fedeff.deployment.commands import environment, script
from fedeff.deployment.flwr_command import Flwr, flwr
from fedeff.deployment.ports import answers
from fedeff.deployment.site import CONNECTION, Site

__all__ = ["run_on_site"]

_LOOK_S = 0.5
_ASK_S = 5.0  # how often the SuperLink is asked how the run stands; each time costs a tenth of a second
_SILENT_S = 60.0  # for which a SuperLink may be away, as while its supervisor starts it again
_SAID_LINES, _SAID_WAIT_S = 15, 30.0
_log = logging.getLogger(__name__)


def run_on_site(
    site: Site,
    app: Path,
    run_config: tuple[str, ...] = (),
    *,
    look: Callable[[], str] = lambda: "",
    timeout_s: float | None = None,
) -> None:
    """Run an app's folder on the site's SuperLink and wait until it has completed.

    `look` is called twice a second and says why there is no point in waiting, as long as there is one "".
    A run that is not waited for to its end, for whatever reason, is stopped.

    Raises:
        EngineError: if the run failed or was stopped, with what its ServerApp said last.
        DeploymentError: if the SuperLink does not answer.
    """
    if not answers(site):
        raise DeploymentError(f"no SuperLink answers on {site.address}; start it with: fedeff deploy up")
    with flwr(site) as command:
        run_id = command.start_run(app, *run_config)
        _log.info("run %s", run_id)
        with _stopped_unless_ended(site, command, run_id):
            status, details = _ended(site, command, run_id, look, timeout_s)
    if status != "finished:completed":
        said = _last_words(site, run_id)
        raise EngineError(
            f"run {run_id} is {status} {details}".rstrip() + (f"; it said: {said}" if said else "")
        )


def _ended(
    site: Site, command: Flwr, run_id: str, look: Callable[[], str], timeout_s: float | None
) -> tuple[str, str]:
    """The run's status and details once it has ended."""
    begun_s = heard_s = asked_s = time.monotonic()
    while True:
        hopeless, now_s = look(), time.monotonic()
        if hopeless or now_s - asked_s >= _ASK_S:
            asked_s = now_s
            if answers(site):
                heard_s = now_s
                status, details = command.run_status(run_id)
                if status.startswith("finished"):
                    look()
                    return status, details
        if hopeless:
            raise EngineError(f"run {run_id}: {hopeless}")
        if now_s - heard_s > _SILENT_S:
            raise DeploymentError(f"the SuperLink on {site.address} has not answered for {_SILENT_S:g} s")
        if timeout_s is not None and now_s - begun_s > timeout_s:
            raise EngineError(f"run {run_id} has not ended in {timeout_s:g} s and was stopped")
        time.sleep(_LOOK_S)


@contextmanager
def _stopped_unless_ended(site: Site, command: Flwr, run_id: str) -> Iterator[None]:
    """Stop the run where the block is left by an error or Ctrl-C."""
    try:
        yield
    except BaseException:
        if answers(site):
            try:
                command.stop_run(run_id)
            except DeploymentError as error:  # it may have ended by itself
                _log.info("%s", error)
        raise


def _last_words(site: Site, run_id: str) -> str:
    """The last lines of the run's log on one line; nothing where the SuperLink does not give it."""
    command = [script("flwr"), "log", run_id, CONNECTION, "--show"]
    try:
        done = subprocess.run(
            command, env=environment(site), capture_output=True, text=True, timeout=_SAID_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return " | ".join(lines[-_SAID_LINES:])
