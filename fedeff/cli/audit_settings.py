"""What the audit's commands share: options, settings from words, a folder to write to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedeff.core.errors import ConfigError

__all__ = ["Clients", "Config", "Data", "TierName", "checked_folder", "overrides_of"]

Config = Annotated[
    list[str] | None,
    typer.Option("--run-config", "-c", metavar="KEY=VALUE", help="A setting (repeat), or a TOML file."),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME", help="As -c dataset=NAME, such as digits.")
]
Clients = Annotated[int | None, typer.Option("--clients", "-n", metavar="N", help="The run's, or else 1000.")]
TierName = Annotated[str, typer.Option("--tier", metavar="quick|standard|deep", help="How hard to try.")]

Value = bool | int | float | str


def overrides_of(config: Sequence[str], *, data: str | None, seed: int | None) -> dict[str, Value]:
    """The settings that were given, --data and --seed among them.

    Raises:
        ConfigError: for text that is no setting, or one that is given twice.
    """
    from fedeff.app.overrides import parse_overrides

    overrides = parse_overrides(config)
    for key, option, value in (("dataset", "--data", data), ("seed", "--seed", seed)):
        if value is None:
            continue
        if key in overrides:
            raise ConfigError(f"{option} and -c {key}= both give one; give one of the two")
        overrides[key] = value
    return overrides


def checked_folder(folder: Path) -> Path:
    """The folder, if a report can be written there: before anything is computed.

    Raises:
        ConfigError: if it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return folder
