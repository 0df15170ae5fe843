"""What a setting may be: a sentence for people and a test for values, side by side."""

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any, TypeVar

from fedeff.core.errors import ConfigError, unknown_name

__all__ = [
    "Allowed",
    "above",
    "above_to",
    "anything",
    "at_least",
    "at_least_or",
    "below",
    "between",
    "checked",
    "default_of",
    "inside",
    "key_of",
    "one_of",
    "setting",
    "switch",
]

Value = bool | int | float | str
T = TypeVar("T", bool, int, float, str)

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Allowed:
    """The values a setting takes: `text` for help and errors, `holds` for one value's test.

    `names` is set where the value is one of a few words, so that a typo can be answered with the
    nearest one.
    """

    text: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def at_least(low: float) -> Allowed:
    """Numbers from `low` up."""
    return Allowed(f"at least {low:g}", lambda value: bool(value >= low))


def at_least_or(low: float, other: float) -> Allowed:
    """Numbers from `low` up, and one that stands for something else."""
    return Allowed(f"at least {low:g}, or {other:g}", lambda value: bool(value >= low or value == other))


def above(low: float) -> Allowed:
    """Numbers greater than `low`."""
    return Allowed(f"above {low:g}", lambda value: bool(value > low))


def above_to(low: float, high: float) -> Allowed:
    """Numbers greater than `low`, up to `high`."""
    return Allowed(f"above {low:g} and at most {high:g}", lambda value: bool(low < value <= high))


def below(low: float, high: float) -> Allowed:
    """Numbers from `low` up to, but without, `high`."""
    return Allowed(f"at least {low:g} and below {high:g}", lambda value: bool(low <= value < high))


def inside(low: float, high: float) -> Allowed:
    """Numbers greater than `low` and smaller than `high`."""
    return Allowed(f"above {low:g} and below {high:g}", lambda value: bool(low < value < high))


def between(low: float, high: float) -> Allowed:
    """Numbers from `low` to `high`, both included."""
    return Allowed(f"from {low:g} to {high:g}", lambda value: bool(low <= value <= high))


def one_of(*names: str) -> Allowed:
    """One of a few words."""
    return Allowed(", ".join(names), lambda value: value in names, names)


def switch() -> Allowed:
    """True or false."""
    return Allowed("true or false", lambda value: isinstance(value, bool))


def anything(text: str) -> Allowed:
    """Any text; `text` says what it means."""
    return Allowed(text, lambda value: True)


def setting(default: T, meaning: str, allowed: Allowed) -> T:
    """A dataclass field that carries its documentation and its test."""
    made: T = field(default=default, metadata={"meaning": meaning, "allowed": allowed})
    return made


def key_of(one: Field[Any]) -> str:
    """The setting's key in a run config: `learning-rate` of the field `learning_rate`."""
    return one.name.replace("_", "-")


def default_of(one: Field[Any]) -> Value:
    """What the setting is where it is not given."""
    default: Any = one.default
    given: Value = default
    return given


def checked(one: Field[Any], value: object) -> Value:
    """`value` in the field's type, whole numbers taken for floats; `ConfigError` if it will not do."""
    kind, allowed = type(default_of(one)), one.metadata["allowed"]
    seen = float(value) if kind is float and type(value) is int else value
    if type(seen) is not kind or (isinstance(seen, float) and not math.isfinite(seen)):
        raise ConfigError(f"{key_of(one)} = {value!r} is not {_TYPE_NAMES[kind]}; allowed: {allowed.text}")
    if not allowed.holds(seen):
        if allowed.names:
            raise unknown_name(key_of(one), str(seen), allowed.names)
        raise ConfigError(f"{key_of(one)} = {value!r} is not possible; allowed: {allowed.text}")
    return seen
