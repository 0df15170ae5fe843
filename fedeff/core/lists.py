"""Lists in a message's config that may have no entry.

A ConfigRecord holds an empty list, but Flower's `message_size_mod` reads the first entry of every
list. So none travels: a single entry that can be no value stands for it.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["NO_PART", "NO_ROUND", "entries", "listed"]

T = TypeVar("T", str, int)

NO_PART = ""  # alone in a list of parts of a model
NO_ROUND = -1  # alone in a list of rounds


def listed(values: Iterable[T], nothing: T) -> list[T]:
    """The values as a list for a ConfigRecord; `nothing` alone where there are none.

    >>> listed(["fc.bias"], NO_PART), listed([], NO_ROUND)
    (['fc.bias'], [-1])
    """
    return list(values) or [nothing]


def entries(values: Sequence[T], nothing: T) -> tuple[T, ...]:
    """What `listed` was given; an empty list has no entries either.

    >>> entries([""], NO_PART), entries([0, 2], NO_ROUND), entries([], NO_ROUND)
    ((), (0, 2), ())
    """
    return () if list(values) == [nothing] else tuple(values)
