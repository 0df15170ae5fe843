"""How a model differs from the one that its name builds: a value that travels as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from fedeff.core.errors import ConfigError
from fedeff.models.cropping import Window

__all__ = ["Structure"]

T = TypeVar("T")
_MEMBERS = ("version", "kept", "bypassed", "windows", "ranks")


@dataclass(frozen=True)
class Structure:
    """The units, blocks and parts of kernels that are left of a built model, and its decompositions.

    `kept` lists by the name of a set of units (see `fedeff.models.Units`) those that are left, as
    numbered in the built model; a set that is not listed is whole. `bypassed` names blocks of which the
    shortcut alone is left, `windows` what is left of a convolution's kernel, `ranks` the convolutions
    that are decomposed. `version` counts the changes; 0 is the model as built.

    >>> Structure(1, {"conv1": (0, 3)}).then(Structure(kept={"conv1": (1,)})).kept
    {'conv1': (3,)}
    """

    version: int = 0
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()
    windows: Mapping[str, Window] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (
            ("kept", {name: tuple(units) for name, units in sorted(self.kept.items())}),
            ("bypassed", tuple(sorted(set(self.bypassed)))),
            ("windows", {name: Window(*window) for name, window in sorted(self.windows.items())}),
            ("ranks", dict(sorted(self.ranks.items()))),
        ):
            object.__setattr__(self, name, value)
        _check(self)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut and nothing decomposed: the model as built."""
        return not (self.kept or self.bypassed or self.windows or self.ranks)

    def then(self, change: "Structure") -> "Structure":
        """The structure after a further change, which numbers what is left here; one version more.

        Raises:
            ConfigError: if the change keeps what is not there.
        """
        kept, windows = dict(self.kept), dict(self.windows)
        for name, units in change.kept.items():
            kept[name] = _chosen(name, kept[name], units) if name in kept else units
        for name, window in change.windows.items():
            windows[name] = window.within(windows[name]) if name in windows else window
        bypassed = (*self.bypassed, *change.bypassed)
        return Structure(
            self.version + 1,
            _outside(kept, bypassed),
            bypassed,
            _outside(windows, bypassed),
            _outside({**self.ranks, **change.ranks}, bypassed),
        )

    @cached_property
    def json(self) -> str:
        """JSON without spaces; equal structures have equal text."""
        members = {name: getattr(self, name) for name in _MEMBERS}
        return json.dumps({name: value for name, value in members.items() if value}, separators=(",", ":"))

    @staticmethod
    @lru_cache(maxsize=64)
    def from_json(text: str) -> "Structure":
        """The structure whose `json` this is.

        Raises:
            ConfigError: for text that is none.
        """
        try:
            members: dict[str, Any] = json.loads(text)
            if unknown := set(members) - set(_MEMBERS):
                raise ValueError(f"unknown members {sorted(unknown)}")
            return Structure(**members)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"structure {text[:80]!r} cannot be read ({error}); send what Structure.json holds"
            ) from error


def _chosen(name: str, before: tuple[int, ...], units: tuple[int, ...]) -> tuple[int, ...]:
    if units[-1] >= len(before):
        raise ConfigError(f"structure keeps unit {units[-1]} of {name!r}, of which {len(before)} are left")
    return tuple(before[unit] for unit in units)


def _outside(members: Mapping[str, T], blocks: tuple[str, ...]) -> dict[str, T]:
    """Those whose layer is in none of the blocks."""
    inside = tuple(f"{block}." for block in blocks)
    return {name: value for name, value in members.items() if not name.startswith(inside)}


def _check(structure: Structure) -> None:
    if type(structure.version) is not int or structure.version < 0:
        raise ConfigError(
            f"structure version is {structure.version!r}; it must be a whole number of at least 0"
        )
    for name, units in structure.kept.items():
        ascending = all(type(unit) is int for unit in units) and list(units) == sorted(set(units))
        if not units or not ascending or units[0] < 0:
            raise ConfigError(
                f"structure keeps units {list(units)[:8]} of {name!r}; "
                "list each unit that is left once, in ascending order, at least one"
            )
    for name, window in structure.windows.items():
        if not all(type(side) is int for side in window) or min(window) < 0 or min(window[2:]) < 1:
            raise ConfigError(
                f"structure crops {name!r} to {tuple(window)}; expected top, left, height, width with "
                "at least one row and column"
            )
    for name, rank in structure.ranks.items():
        if type(rank) is not int or rank < 1:
            raise ConfigError(
                f"structure gives {name!r} rank {rank!r}; it must be a whole number of at least 1"
            )
    if not all(isinstance(name, str) for name in structure.bypassed):
        raise ConfigError(f"structure bypasses {structure.bypassed}; expected names of blocks")
