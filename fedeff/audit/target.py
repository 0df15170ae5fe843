"""What is audited: settings, the folder of a run with its weights, or the folder of an app."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedeff.app.foreign import is_built_in
from fedeff.app.run import BUILT_IN
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.settings import Settings
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.flower import run_config_of

__all__ = ["CLIENTS", "Target", "target_of"]

Value = bool | int | float | str

CLIENTS = 1000  # as `fedeff simulate` has: how many decides how many rows each holds


@dataclass(frozen=True)
class Target:
    """A configuration to audit: the settings of the built-in app, on so many clients; `what` names it."""

    settings: Settings
    clients: int
    what: str

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise ConfigError(f"clients = {self.clients}; expected at least 1")
        self.settings.check_clients(self.clients)


def target_of(
    given: Settings | Path | str | None,
    *,
    clients: int | None = None,
    overrides: Mapping[str, Value] | None = None,
) -> Target:
    """The target that is meant: settings, a run's folder, the folder of the built-in app, or the defaults.

    A run is audited with the weights of its newest checkpoint, on as many clients as it had; of its
    settings `overrides` (by kebab-case key) replace some. Without secure aggregation a cohort that is
    larger than the number of clients becomes that number: who else trains changes nothing in what one
    client sends.

    Raises:
        ConfigError: for an unknown key, an impossible value, or a folder that is neither.
        AuditError: for a Flower app of others, which needs its network named.
    """
    changes = dict(overrides or {})
    if given is None or isinstance(given, Settings):
        base = (given or Settings()).run_config()
        return _target({**base, **changes}, clients or CLIENTS, "the built-in app")
    path = Path(given).expanduser()
    if is_run(path):
        return _of_run(RunFolder(path), clients, changes)
    if not path.is_dir():
        raise ConfigError(
            f"{path} is no folder; name that of a run (such as runs/demo) or of a Flower app, or neither"
        )
    if not is_built_in(path):
        raise AuditError(
            f"{path} is a Flower app of others, whose network an audit cannot guess; name it by "
            "--network module:callable"
        )
    return _target({**run_config_of(path, []), **changes}, clients or CLIENTS, f"the app {path.name}")


def _of_run(folder: RunFolder, clients: int | None, changes: Mapping[str, Value]) -> Target:
    config = folder.config()
    if (app := config.get("app")) != BUILT_IN:
        raise AuditError(
            f"{folder.path} is a run of the Flower app {app}; audit the app itself: fedeff audit leak {app} "
            "--network module:callable"
        )
    base = dict(config.get("config", {}))
    base |= {"initial-weights": str(folder.path.absolute()), "run-folder": ""}
    ran_on = config.get("simulation", {}).get("clients", CLIENTS)
    return _target({**base, **changes}, clients or int(ran_on), f"the run {folder.name}")


def _target(run_config: Mapping[str, Value], clients: int, what: str) -> Target:
    settings = Settings.from_run_config(run_config)
    if settings.secure_aggregation == "none" and settings.cohort > clients > 0:
        settings = replace(settings, cohort=clients)
    return Target(settings, clients, what)
