"""When a process that died is started again: a rule as a value."""

from dataclasses import dataclass

__all__ = ["RestartRule"]


@dataclass(frozen=True)
class RestartRule:
    """Wait twice as long after each death in a row, and give up after too many.

    The sum of the waits, two minutes, is longer than the minute for which a SuperLink refuses the key
    of a SuperNode that was killed: it takes it to be online until its heartbeats are missed.
    """

    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    limit: int = 8  # deaths in a row that are followed by another start
    settled_s: float = 120.0  # after so long a life the next death is the first in a row

    def deaths_in_a_row(self, before: int, lived_s: float) -> int:
        """The count with the death at hand, after a life of so many seconds."""
        return 1 if lived_s >= self.settled_s else before + 1

    def wait_s(self, deaths: int) -> float | None:
        """Seconds before the next start after so many deaths in a row; None: no more."""
        if deaths > self.limit:
            return None
        return min(self.first_wait_s * 2.0 ** (deaths - 1), self.longest_wait_s)
