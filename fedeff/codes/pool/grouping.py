"""Items that wait for company: groups that are open, until they are full or have waited long enough."""

from collections.abc import Hashable, Iterator

from fedeff.codes.pool.arrays import kind
from fedeff.codes.pool.items import Item

__all__ = ["Grouping"]


class Grouping:
    """Open groups, one for each kind of item: the same function, shape and type."""

    def __init__(self, k: int, flush_after_s: float) -> None:
        self._k, self._flush_after_s = k, flush_after_s
        self._open: dict[Hashable, list[Item]] = {}

    def add(self, item: Item) -> tuple[Hashable, list[Item]] | None:
        """The kind and the items of the group that this item fills, if it does."""
        its = kind(item.fn, item.array)
        group = self._open.setdefault(its, [])
        group.append(item)
        return (its, self._open.pop(its)) if len(group) == self._k else None

    def due(self, now: float) -> Iterator[tuple[Hashable, list[Item]]]:
        """Groups that have been open for too long, closed."""
        for its, group in list(self._open.items()):
            if now >= group[0].submitted_s + self._flush_after_s:
                yield its, self._open.pop(its)

    def of(self, item: Item) -> tuple[Hashable, list[Item]] | None:
        """The open group that an item waits in, closed."""
        for its, group in self._open.items():
            if item in group:
                return its, self._open.pop(its)
        return None

    def all(self) -> list[tuple[Hashable, list[Item]]]:
        """All open groups, closed."""
        groups = list(self._open.items())
        self._open.clear()
        return groups

    def drop(self, item: Item) -> None:
        """An item that nobody waits for leaves its group, if that is open."""
        for its, group in self._open.items():
            if item in group:
                group.remove(item)
                if not group:
                    del self._open[its]
                return

    def due_s(self) -> float | None:
        """When the next group is due; nothing where none is open."""
        return min((g[0].submitted_s + self._flush_after_s for g in self._open.values()), default=None)
