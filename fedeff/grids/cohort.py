"""A cohort: the messages of one round, with a strategy's wish that replies be streamed or summed.

Flower's `Grid.send_and_receive` takes any iterable of messages and returns an iterable of replies.
A strategy that returns a `Cohort` from `configure_train` says with it that it reads the replies
once and in order. The engines of `fedeff.simulation` then hand each reply over as soon as its turn
comes, or sum a block of replies where they were made; every other Grid sees an iterable of
messages and returns its list, so the strategy must take either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Message

__all__ = ["Cohort", "Fold", "Folded", "Receipt"]


class Fold(Protocol):
    """A sum over replies that can be taken in pieces: `merge(sum(A), sum(B)) == sum(A + B)`.

    A picklable value without state of its own; the running total is passed in and returned, and may
    be changed in place. Totals must be picklable and hold their arrays as NumPy arrays.
    """

    def add(self, total: Any | None, reply: Message) -> Any:
        """The total with one reply added; None starts a new total."""
        ...

    def merge(self, total: Any, other: Any) -> Any:
        """The sum of two totals, `total`'s replies first."""
        ...


@dataclass(frozen=True)
class Receipt:
    """What one folded client received and would have sent, had its reply travelled alone."""

    node_id: int
    down_bytes: int
    up_bytes: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """One block of clients whose replies were summed where they were made, in partition order."""

    total: Any
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class Cohort:
    """The messages of one round; iterating it iterates them.

    With `fold=None` a streaming Grid yields each reply `Message` once, in ascending partition order,
    and keeps none. With a fold it yields `Folded` sums and, one by one, the messages that carry an
    error.
    """

    messages: Sequence[Message]
    fold: Fold | None = None

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)
