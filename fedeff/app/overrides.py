"""Settings from the command line: `key=value` pairs and TOML files, as `flwr run -c` takes them."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["flatten", "fuse", "parse_axes", "parse_overrides", "read_toml"]

Value = bool | int | float | str

_PAIR = re.compile(r"([^\s=]+)=('[^']*'|\"[^\"]*\"|\S*)")


def parse_overrides(texts: Iterable[str]) -> dict[str, Value]:
    """The settings in `-c` texts: `key=value` pairs separated by spaces, or a path to a TOML file.

    Values are TOML (`0.1`, `true`, `"text"`); a bare word is text, which Flower itself refuses.
    Later texts win.

    >>> parse_overrides(["cohort=10 partition=iid", "learning-rate=0.1"])
    {'cohort': 10, 'partition': 'iid', 'learning-rate': 0.1}

    Raises:
        ConfigError: for a text that is neither, or a file that is not TOML.
    """
    overrides: dict[str, Value] = {}
    for text in texts:
        if text.endswith(".toml"):
            overrides.update(flatten(read_toml(Path(text).expanduser())))
        else:
            overrides.update((key, _value(key, raw)) for key, raw in _pairs(text))
    return overrides


def parse_axes(texts: Iterable[str]) -> dict[str, tuple[Value, ...]]:
    """Like `parse_overrides`, but a value may be a list of alternatives: `learning-rate=0.05,0.1`.

    Quote a value that contains a comma itself.

    >>> parse_axes(["cohort=10,20 model=mlp"])
    {'cohort': (10, 20), 'model': ('mlp',)}
    """
    axes: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        if text.endswith(".toml"):
            axes.update((key, (value,)) for key, value in parse_overrides([text]).items())
        else:
            axes.update((key, _alternatives(key, raw)) for key, raw in _pairs(text))
    return axes


def flatten(nested: Mapping[str, Any], above: str = "") -> dict[str, Value]:
    """Nested tables as one, keys joined by dots, as Flower hands a run config to an app.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Value] = {}
    for name, value in nested.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            flat.update(flatten(value, key))
        elif isinstance(value, bool | int | float | str):
            flat[key] = value
        else:
            raise ConfigError(f"{key} = {value!r} is not a number, text, true or false")
    return flat


def fuse(defaults: Mapping[str, Value], overrides: Mapping[str, Value]) -> dict[str, Value]:
    """`defaults` with the overrides in place; an override must name a key that is there."""
    for key in overrides:
        if key not in defaults:
            raise unknown_name("setting", key, defaults) if defaults else _no_settings(key)
    return {**defaults, **overrides}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: if the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error


def _no_settings(key: str) -> ConfigError:
    return ConfigError(f"unknown setting {key!r}; this app has no [tool.flwr.app.config]")


def _pairs(text: str) -> list[tuple[str, str]]:
    """The (key, raw value) pairs of one `-c` text; anything left over is an error."""
    rest = _PAIR.sub("", text).strip()
    pairs = [(key, raw) for key, raw in _PAIR.findall(text) if raw]
    if rest or not pairs or len(pairs) < len(_PAIR.findall(text)):
        raise ConfigError(f"-c {text!r} is not key=value; write for example -c learning-rate=0.1")
    return pairs


def _alternatives(key: str, raw: str) -> tuple[Value, ...]:
    if raw[0] in "'\"":
        return (_value(key, raw),)
    values = tuple(_value(key, part) for part in raw.split(","))
    if len(set(values)) < len(values):
        raise ConfigError(f"{key}={raw} names a value twice; name each once")
    return values


def _value(key: str, raw: str) -> Value:
    """One raw value as TOML reads it; a word that TOML does not know is text."""
    if not raw:
        raise ConfigError(f"{key} has an empty value; write {key}=VALUE, or {key}='\"\"' for empty text")
    try:
        parsed = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw
    return parsed if isinstance(parsed, bool | int | float | str) else raw
