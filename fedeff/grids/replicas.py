"""What a client holds of what it was sent, as the server knows it, and differences to that.

Both sides compute it by the same steps from the same values, so both hold the same bits; a digest
tells where they do not.
"""

import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError
from fedeff.core.parts import key_of, put, shape_of, take

__all__ = ["Arrays", "Replica", "base_of", "has_reference", "less", "plus", "reference_of"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, NDArray]


class Replica:
    """Arrays by record and name, as one client last received each. Never changed; may be shared by many."""

    def __init__(self, records: Mapping[str, Arrays] | None = None) -> None:
        self.records: dict[str, Arrays] = dict(records or {})

    def taking(self, received: Mapping[str, Arrays]) -> "Replica":
        """The replica after more was received: rows go into the array that they are of."""
        records = dict(self.records)
        for name, arrays in received.items():
            records[name] = _with(records.get(name, {}), arrays)
        return Replica(records)

    @cached_property
    def digest(self) -> int:
        """Four bytes of all values and names; never 0."""
        found = 0
        for record, arrays in sorted(self.records.items()):
            for name, values in sorted(arrays.items()):
                found = zlib.crc32(f"{record}/{name}/{values.dtype.str}/{values.shape}".encode(), found)
                found = zlib.crc32(np.ascontiguousarray(values).data, found)
        return found or 1


def base_of(records: Mapping[str, Arrays], name: str) -> Arrays:
    """The arrays that those of a reply's record are differences to: of its name, or the only ones."""
    filled = [arrays for arrays in records.values() if arrays]
    return records.get(name, filled[0] if len(filled) == 1 else {})


def less(arrays: Arrays, base: Arrays) -> dict[str, NDArray]:
    """`array - reference` of each array that has a reference in `base`; the others as they are."""
    with np.errstate(over="ignore", invalid="ignore"):  # a codec refuses what comes of it, by name
        return {
            name: _moved(values, reference_of(base, name, values), np.subtract)
            for name, values in arrays.items()
        }


def plus(arrays: Arrays, base: Arrays) -> dict[str, NDArray]:
    """`reference + array` of each array that has a reference in `base`; the others as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: _moved(values, reference_of(base, name, values), np.add) for name, values in arrays.items()
        }


def reference_of(base: Arrays, name: str, values: NDArray) -> NDArray | None:
    """What an array of this name is told as a difference to: floats of its shape and dtype, or nothing.

    A part of an array (see `fedeff.core.parts`) refers to the same rows of the whole.
    """
    if values.dtype.kind != "f":
        return None
    found = base.get(name)
    key = key_of(name)
    if key != name and key in base:
        found = _rows(base[key], name)
    same = found is not None and found.shape == values.shape and found.dtype == values.dtype
    return found if same else None


def has_reference(base: Arrays, name: str, values: NDArray) -> bool:
    """Whether nothing is lost where the array is told as a difference: floats need a reference."""
    return values.dtype.kind != "f" or reference_of(base, name, values) is not None


def _moved(values: NDArray, reference: NDArray | None, by: np.ufunc) -> NDArray:
    return values if reference is None else np.asarray(by(values, reference))


def _rows(whole: NDArray, part: str) -> NDArray | None:
    try:
        return take({key_of(part): whole}, [part])[part]
    except ConfigError:
        return None


def _with(held: Arrays, received: Arrays) -> dict[str, NDArray]:
    """Rows of an array that is not there, or has no such rows, count as an array of their own."""
    arrays = dict(held)
    for name, values in received.items():
        key = key_of(name)
        if key == name or key not in arrays or not _fits(arrays[key], name, values):
            arrays[name] = values
        else:
            arrays = put(arrays, {name: values})
    return arrays


def _fits(whole: NDArray, part: str, values: NDArray) -> bool:
    try:
        return shape_of(part, whole.shape) == values.shape and whole.dtype == values.dtype
    except ConfigError:
        return False
