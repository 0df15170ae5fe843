"""What an attacker has: the public side of a round, and what came of it over the wire.

Nothing here holds, or leads to, what the clients trained on; that is `fedeff.audit.truth`, which no
attack imports.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from fedeff.clients import LocalTraining
from fedeff.core.errors import ConfigError

__all__ = ["Exchange", "Labels", "NDArray", "Public", "ServerView", "Told"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Labels = NDArray  # int64, (rows,) or for text (rows, length)
Task = Literal["classify", "next-character"]
Kind = Literal["change", "gradient"]


@dataclass(frozen=True, eq=False)
class Told:
    """What came of one array: values, which of them are known, and how exactly.

    `values` (float64, the array's shape) are those of the exchange's `kind`, true where `known` (booleans of
    that shape, None: all). Elsewhere the truth is at most `within` (one number, or that shape) from the
    value: what top-k left out is smaller than the least that it sent. Infinite: such a value means nothing.
    `std` (one number, or that shape) is the standard deviation of the error that is to be expected of a
    known value, and of such a bound: of a codec's rounding, of noise that is on record. 0 is exact but
    for the wire's dtype.
    """

    values: NDArray
    known: NDArray | None = None
    std: float | NDArray = 0.0
    within: float | NDArray = math.inf

    def __post_init__(self) -> None:
        for name, given in (("known", self.known), ("std", self.std), ("within", self.within)):
            if isinstance(given, np.ndarray) and given.shape != self.values.shape:
                raise ConfigError(
                    f"{name} has shape {given.shape}, the values {self.values.shape}; give one an entry"
                )

    @property
    def mask(self) -> NDArray:
        """Which values are known, as booleans of their shape."""
        return np.ones(self.values.shape, bool) if self.known is None else self.known

    @property
    def bounded(self) -> NDArray:
        """Which values are not known but bounded, as booleans of their shape."""
        return ~self.mask & np.isfinite(self.within)


@dataclass(frozen=True, eq=False)
class Exchange:
    """One round with one client, or with several of which only the sum came.

    `weights` are those that training began with, by key, as the client had them; `told` what came back of
    them, whole arrays by key (rows that were not sent are not `known`). Kind "change": the weights
    after training less those before, of a sum the mean weighted by examples, or where the clients count
    `alike` the plain one; "gradient": the mean gradient. `training` is what this message asked for,
    `examples` the training rows as the client says (of a sum, of all), 0 where it does not; `clients` of
    how many this is the sum.

    Where clients train on from weights of their own, the arrays named in `stale` are those whose weights
    before training the server was not told exactly: `weights` hold the last that it was, and what is told
    is the change since. `goes_on` says that the optimiser began with moments of earlier rounds, which no
    server sees. Each client's change was scaled down to a norm of `clipping_norm`, over all arrays of floats
    together, where it was longer (L2, or L1 where `clipping_order` is 1); 0: it was not.
    """

    server_round: int
    weights: Mapping[str, NDArray]
    told: Mapping[str, Told]
    training: LocalTraining
    examples: int
    kind: Kind = "change"
    clients: int = 1
    alike: bool = False
    stale: frozenset[str] = frozenset()
    goes_on: bool = False
    clipping_norm: float = 0.0
    clipping_order: Literal[1, 2] = 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many rows each client has: of a sum, of which no more is told, as equal as can be."""
        least, more = divmod(self.examples, self.clients)
        return (least + 1,) * more + (least,) * (self.clients - more)

    @property
    def seen(self) -> tuple[int, ...]:
        """Rows of each client that took part: all, or as many as its steps see where these are fewer."""
        most = self.training.steps * self.training.batch_size
        return tuple(min(size, most) if most else size for size in self.sizes)

    @property
    def rows(self) -> int:
        """Rows that took part, of all clients."""
        return sum(self.seen)

    @property
    def steps(self) -> int:
        """Optimiser steps that a client took; of a sum, the largest."""
        return 1 if self.kind == "gradient" else self.training.step_count(self.sizes[0])


@dataclass(frozen=True, eq=False)
class Public:
    """What everybody knows: the model's code, the task, the shape and range of one input.

    `network()` gives a fresh module (buffers included) whose arrays have the keys of an exchange's
    `weights`. For "next-character" inputs are int64 tokens (length,) below `classes`.
    """

    network: Callable[[], nn.Module]
    task: Task
    classes: int
    input_shape: tuple[int, ...]
    lowest: float = 0.0
    highest: float = 1.0


@dataclass(frozen=True, eq=False)
class ServerView:
    """All that an attacker is given. With `same_rows` the exchanges are of one client on the same rows.

    `labels` are known to an informed attacker; None: they have to be inferred.
    """

    public: Public
    exchanges: tuple[Exchange, ...]
    labels: Labels | None = None
    same_rows: bool = True

    def __post_init__(self) -> None:
        if not self.exchanges:
            raise ConfigError("a view without an exchange shows nothing; capture at least one round")

    @property
    def first(self) -> Exchange:
        """The first exchange, on which attacks of a single round work."""
        return self.exchanges[0]
