"""What a setting may be: a sentence for people and a test for values, side by side."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = [
    "Allowed",
    "above",
    "above_to",
    "anything",
    "at_least",
    "at_least_or",
    "below",
    "between",
    "inside",
    "one_of",
    "setting",
    "switch",
]

T = TypeVar("T", bool, int, float, str)


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
