"""Bytes, seconds and shares as a reader says them."""

import math
from collections.abc import Callable

__all__ = [
    "Scale",
    "byte_scale",
    "human_bytes",
    "human_seconds",
    "percent",
    "percent_scale",
    "plain",
    "second_scale",
    "unit_scale",
    "with_spread",
]

# What to divide a value by, and the unit in which it then is.
Scale = Callable[[float], tuple[float, str]]

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Decimal units and three digits: 1234567 gives `1.23 MB`."""
    value = float(count)
    for unit in _BYTES:
        if abs(value) < 999.5 or unit == _BYTES[-1]:
            return f"{_three_digits(value)} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """Two units at most: `0.83 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 99.95:
        return f"{_three_digits(seconds)} s"
    whole = round(seconds)
    for size, unit, small_size, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    raise AssertionError("unreachable")


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; a dash where there is none."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.1f}%"


def plain(value: float | None) -> str:
    """A number with four digits; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _three_digits(value: float) -> str:
    digits = 0 if value == round(value) and abs(value) < 1000 else 2 - min(2, _magnitude(value))
    return f"{value:.{digits}f}"


def _magnitude(value: float) -> int:
    return max(0, math.floor(math.log10(abs(value)))) if value else 0


def byte_scale(count: float) -> tuple[float, str]:
    """The unit in which `human_bytes` says a count."""
    for power, unit in enumerate(_BYTES):
        if abs(count) < 999.5 * 1000**power:
            return float(1000**power), f" {unit}"
    return float(1000 ** (len(_BYTES) - 1)), f" {_BYTES[-1]}"


def second_scale(seconds: float) -> tuple[float, str]:
    """Seconds, minutes, hours or days, whichever gives a number of few digits."""
    for limit, divisor, unit in ((99.95, 1.0, " s"), (5970.0, 60.0, " min"), (172800.0, 3600.0, " h")):
        if seconds < limit:
            return divisor, unit
    return 86400.0, " d"


def percent_scale(_: float) -> tuple[float, str]:
    """Shares in percent."""
    return 0.01, "%"


def unit_scale(_: float) -> tuple[float, str]:
    """Numbers as they are."""
    return 1.0, ""


def with_spread(mean: float, deviation: float, scale: Scale) -> str:
    """Mean and deviation in the mean's unit: `17.2 ± 1.4 min`; the mean alone where all are equal."""
    divisor, unit = scale(mean)
    value, spread = mean / divisor, deviation / divisor
    if not spread > 0:  # NaN: one run
        return (f"{value:.1f}" if unit == "%" else _three_digits(value)) + unit
    decimals = 1 if unit == "%" else min(3, max(0, 1 - math.floor(math.log10(spread))))
    return f"{value:.{decimals}f} ± {spread:.{decimals}f}{unit}"
