"""Rates of links as they are written on a command line: `10Mbit`, `1.25e6`, `10Mbit:100Mbit`."""

import math
import re

from fedeff.core.errors import ConfigError

__all__ = ["both_ways", "rate"]

_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_UNITS = _BYTES | {"bit": 1 / 8, "kbit": 1e3 / 8, "Mbit": 1e6 / 8, "Gbit": 1e9 / 8}
_RATE = re.compile(r"(\d[\d.]*(?:[eE][+-]?\d+)?|inf)\s*([A-Za-z]*)(?:/s)?")


def rate(option: str, text: str) -> float:
    """Bytes a second, without a unit or in B, kB, MB, GB, bit, kbit, Mbit or Gbit; `inf` is unlimited.

    Raises `ConfigError`, which names the option, for anything else.

    >>> rate("--bandwidth", "10Mbit")
    1250000.0
    """
    found = _RATE.fullmatch(text.strip())
    try:
        value = float(found[1]) * _UNITS[found[2]] if found else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not value > 0:
        raise ConfigError(
            f"{option} {text!r} is no rate; write bytes a second, or such as 10Mbit, 1.5MB, inf"
        )
    return value


def both_ways(option: str, text: str) -> tuple[float, float]:
    """Bytes a second up and down: `UP:DOWN`, or one rate for both."""
    up, colon, down = text.partition(":")
    return rate(option, up), rate(option, down if colon else up)
