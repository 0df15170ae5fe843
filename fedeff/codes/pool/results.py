"""What a pool gives: answers that say how they came about, and counters of what happened."""

from dataclasses import dataclass

__all__ = ["Coded", "PoolStatistics"]


@dataclass(frozen=True, eq=False)
class Coded:
    """The answer to one item, and how it was come by."""

    value: object
    reconstructed: bool  # by the code from others' answers, or a default; not what a worker gave for the item
    quality: float  # 1 for a worker's own answer, `Decoded.quality` for an estimate, 0 for a default
    latency_s: float  # from `submit` to when the pool had the answer


@dataclass(frozen=True)
class PoolStatistics:
    """Counters of a pool since it was made.

    Of every task sent one thing comes to be: it is used, late, raised, or erased; or it is still under way.
    """

    items: int = 0  # submitted
    groups: int = 0  # closed: filled or flushed
    short_groups: int = 0  # flushed before they were full
    tasks: int = 0  # sent to actors, all copies counted
    hedged: int = 0  # of those, second copies because the first was slow
    resent: int = 0  # of those, copies in place of erased ones
    reconstructed: int = 0  # items answered by the code
    deaths: int = 0  # actors that left because they died
    erased_by_death: int = 0  # tasks that ended with their actor
    erased_by_result: int = 0  # answers that were not finite, of another shape, or lost on their way
    late: int = 0  # answers that nobody needed any more
    raised: int = 0  # tasks in which the function raised
    refused: int = 0  # estimates below `min_quality`
    undecodable: int = 0  # items that got the default or a `CodeError`
