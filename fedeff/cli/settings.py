"""From the command line's words to settings of the built-in app."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.app.runtime import Runtime
    from fedeff.app.settings import Settings

__all__ = ["base_settings", "checked_runs", "chosen_strategies"]

Value = bool | int | float | str


def chosen_strategies(named: Sequence[str], overrides: Mapping[str, object]) -> tuple[str, ...]:
    """The strategies named by --strategy or by -c strategy=, none where neither is given.

    Raises:
        ConfigError: if both are given, or a strategy twice.
    """
    if named and "strategy" in overrides:
        raise ConfigError("--strategy and -c strategy= both name one; give one of the two")
    if len(set(named)) < len(named):
        raise ConfigError(f"--strategy names {max(named, key=list(named).count)} twice; name each once")
    return tuple(named) or tuple(str(overrides[key]) for key in ("strategy",) if key in overrides)


def base_settings(app: Path | None, overrides: Mapping[str, Value], seed: int | None) -> "Settings":
    """The settings of a run: the defaults, those of the app folder, the overrides, the seed.

    Raises:
        ConfigError: for an unknown key, an impossible value, or a seed given twice.
    """
    from fedeff.app.settings import Settings

    if seed is not None and "seed" in overrides:
        raise ConfigError("--seed and -c seed= both give one; give one of the two")
    run_config = dict(overrides) if seed is None else {**overrides, "seed": seed}
    if app is not None:
        from fedeff.core.flower import run_config_of

        run_config = {**run_config_of(app, []), **run_config}
    return Settings.from_run_config(run_config)


def checked_runs(
    runs: Mapping[str, "Settings"], runtime: "Runtime"
) -> tuple[dict[str, "Settings"], tuple[str, ...]]:
    """The runs with every "auto" decided, and the notices of that; what cannot run is refused.

    Raises:
        ConfigError, DataError, TraceError: what is wrong, in one line.
    """
    from fedeff.app.run import Plan

    checked: dict[str, Settings] = {}
    told: list[str] = []
    for name, settings in runs.items():
        plan, notices = Plan(settings, runtime).checked()
        checked[name] = plan.settings
        told += notices
    return checked, tuple(told)
