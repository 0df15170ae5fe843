"""A model's arrays as one vector, layer after layer: what arithmetic on whole updates works on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fedeff.core.layers import group_layers
from fedeff.strategies.weighted_sum import ArraySpec

__all__ = ["Layers", "Vector"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Vector = np.ndarray[Any, np.dtype[np.float32]]  # (size,)


@dataclass(frozen=True)
class Layers:
    """Where the arrays of a model lie in one float32 vector, the arrays of a layer next to each other."""

    specs: tuple[ArraySpec, ...]  # in the vector's order
    names: tuple[str, ...]
    slices: tuple[slice, ...]  # of the layers, by name

    @classmethod
    def of(cls, layout: Sequence[ArraySpec]) -> "Layers":
        """The layers of a model of this layout, grouped as `fedeff.core.layers.group_layers` does."""
        by_key = {spec.key: spec for spec in layout}
        groups = group_layers(by_key)
        specs = tuple(by_key[key] for keys in groups.values() for key in keys)
        sizes = [sum(_size(by_key[key]) for key in keys) for keys in groups.values()]
        ends = np.cumsum([0, *sizes]).tolist()
        return cls(specs, tuple(groups), tuple(slice(a, b) for a, b in pairwise(ends)))

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return self.slices[-1].stop if self.slices else 0

    def vector(self, arrays: Mapping[str, NDArray]) -> Vector:
        """The arrays as one vector."""
        made = np.empty(self.size, np.float32)
        for spec, place in self._places():
            made[place] = arrays[spec.key].reshape(-1)
        return made

    def arrays(self, vector: Vector) -> dict[str, NDArray]:
        """The vector as arrays of the layout's shapes, views of it."""
        return {spec.key: vector[place].reshape(spec.shape) for spec, place in self._places()}

    def _places(self) -> Iterator[tuple[ArraySpec, slice]]:
        start = 0
        for spec in self.specs:
            yield spec, slice(start, start + _size(spec))
            start += _size(spec)


def _size(spec: ArraySpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64))
