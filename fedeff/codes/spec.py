"""Codes without training by name and size, such as `replication:2,1`."""

from collections.abc import Callable

from fedeff.codes.berrut import Berrut
from fedeff.codes.code import Code
from fedeff.codes.mds import MDS
from fedeff.codes.replication import Replication
from fedeff.codes.spline import Spline
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["code_names", "code_of"]

_CODES: dict[str, Callable[[int, int], Code]] = {
    "replication": Replication,
    "mds": MDS,
    "berrut": Berrut,
    "spline": Spline,
}


def code_names() -> tuple[str, ...]:
    """The names that `code_of` knows."""
    return tuple(_CODES)


def code_of(spec: str) -> Code:
    """The code of a text `NAME:K,R`.

    Raises:
        ConfigError: for an unknown name, or sizes that are no numbers or do not fit the code.

    >>> code_of("replication:2,1")
    Replication(k=2, r=1)
    """
    name, _, sizes = spec.strip().partition(":")
    if name not in _CODES:
        raise unknown_name("code", name, code_names())
    try:
        k, r = (int(text) for text in sizes.split(","))
    except ValueError as error:
        raise ConfigError(f"code {spec!r} has no sizes; write {name}:K,R, such as {name}:4,2") from error
    return _CODES[name](k, r)
