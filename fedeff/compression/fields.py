"""Checks of a codec's fields, with one wording."""

import math
from typing import Any

from fedeff.compression.codec import Codec
from fedeff.core.errors import ConfigError

__all__ = ["check_codec", "check_fraction", "check_not_negative", "check_one_of", "check_whole"]


def check_whole(where: str, value: object, low: int, high: int) -> None:
    """Raise `ConfigError` unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{where} is {value!r}; give a whole number from {low} to {high}")


def check_fraction(where: str, value: object) -> float:
    """`value` as a float; raises `ConfigError` unless it is in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{where} is {value!r}; give a number above 0 and up to 1, such as 0.01")
    return float(value)


def check_not_negative(where: str, value: object) -> float:
    """`value` as a float; raises `ConfigError` unless it is finite and 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{where} is {value!r}; give a number of 0 or more")
    return float(value)


def check_one_of(where: str, value: object, allowed: tuple[Any, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if not any(value == one and type(value) is type(one) for one in allowed):
        raise ConfigError(f"{where} is {value!r}; give one of {', '.join(repr(one) for one in allowed)}")


def check_codec(where: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a codec."""
    if isinstance(value, type) or not isinstance(value, Codec):
        raise ConfigError(f"{where} is {value!r}; give a codec, such as top_k(0.01)")
