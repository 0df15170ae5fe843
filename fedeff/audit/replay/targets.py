"""What came of an exchange's arrays, as numbers to be matched: known entries, bounded ones, their errors."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.view import Exchange, NDArray

__all__ = ["Bounds", "Scale", "Target", "targets_of"]

_WIRE_ERROR = 2.0**-24  # of a float32 beside its own size: the most that rounding changes it
_SMALLEST_LAYER = (
    1e-6  # norm beside the largest: below it is rounding, as of a bias under batch normalisation
)
Scale = Literal["layer", "noise", "none"]
Bounds = Literal["beyond", "centre", "none"]


@dataclass(frozen=True, eq=False)
class Target:
    """What came of one array: first known values, then bounded ones; their places (None: all, as they are).

    `divisors` is what each error is divided by, `within` (one for each of the bounded) how far from its value
    an entry may be before that is an error. `expected` is the sum of squares of what noise and rounding
    leave of the errors.
    """

    values: Tensor
    places: Tensor | None
    divisors: Tensor
    within: Tensor
    expected: float

    def of(self, simulated: Tensor) -> Tensor:
        """The known and the bounded entries of a simulated array."""
        flat = simulated.flatten()
        return flat if self.places is None else flat[self.places]

    def known(self, entries: Tensor) -> Tensor:
        """Those that are known of such entries."""
        return entries[: len(entries) - len(self.within)]

    def errors(self, entries: Tensor) -> Tensor:
        """How far these entries are from what came: bounded ones, how far beyond their bounds."""
        off = entries - self.values
        return torch.cat([self.known(off), self.beyond(entries)]) if len(self.within) else off

    def beyond(self, entries: Tensor) -> Tensor:
        """How far the bounded ones of these entries are beyond their bounds."""
        off = (entries - self.values)[len(self.values) - len(self.within) :]
        return off - off.clamp(-self.within, self.within)

    def moving(self, entries: Tensor) -> Tensor:
        """Of each of these entries, whether the error moves with it."""
        beyond = self.beyond(entries) != 0
        return torch.cat([beyond.new_ones(len(entries) - len(beyond)), beyond])


def targets_of(
    exchange: Exchange, own: Collection[str], scale: Scale, *, bounds: Bounds = "beyond"
) -> dict[str, Target]:
    """What came of each array among `own` of which something is known, by key.

    With `scale` "layer" errors are divided by the norm of what came of the array, with "noise" each by the
    standard deviation that its entry is told to have and a float32's rounding, with "none" by nothing.
    Of what is not known but bounded counts what is beyond its bounds; with `bounds` "centre" how far it is
    from the middle of them, as if that had come; with "none" nothing.
    """
    told = {key: one for key, one in exchange.told.items() if key in own and _tells(exchange, key)}
    norms = {key: float(np.linalg.norm(one.values[one.mask])) for key, one in told.items()}
    least = _SMALLEST_LAYER * max(norms.values(), default=0.0) or 1.0
    found = {}
    for key, one in told.items():
        errors = _errors(exchange, key, least)
        by_layer = 1.0 if scale == "none" else max(norms[key], least)
        divisors = errors if scale == "noise" else np.full(errors.shape, by_layer)
        exact, bounded = np.flatnonzero(one.mask), np.flatnonzero(one.bounded & (bounds != "none"))
        if bounds == "centre":
            exact, bounded = np.union1d(exact, bounded), bounded[:0]
        places = np.concatenate([exact, bounded])
        within = np.broadcast_to(one.within, one.values.shape).ravel()[bounded]
        found[key] = Target(
            values=torch.from_numpy(one.values.astype(np.float64).ravel()[places]),
            places=None if len(exact) == one.values.size else torch.from_numpy(places),
            divisors=torch.from_numpy(divisors.ravel()[places]),
            within=torch.from_numpy(within),
            expected=float(np.sum((errors / divisors).ravel()[exact] ** 2)),
        )
    return found


def _tells(exchange: Exchange, key: str) -> bool:
    """Whether something is known of how an array changed in this round, not since some earlier one."""
    return key not in exchange.stale and bool(exchange.told[key].mask.any())


def _errors(exchange: Exchange, key: str, least: float) -> NDArray:
    """The error to be expected of each entry: what is on record, and a float32's rounding.

    A change is as inexact as the weight that travelled.
    """
    one = exchange.told[key]
    size = np.where(one.mask, np.abs(one.values), 0.0)
    rounded = np.abs(exchange.weights[key]) if exchange.kind == "change" else size
    typical = np.sqrt(np.mean(size**2, where=one.mask)) or least
    # Not entry by entry: of an entry near zero nearly nothing would be allowed for.
    floor = _WIRE_ERROR * max(float(np.sqrt(np.mean(rounded**2))), float(typical))
    return np.asarray(np.hypot(np.broadcast_to(one.std, one.values.shape), floor))
