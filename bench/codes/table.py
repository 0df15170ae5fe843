"""All rows of the page, in their order."""

from bench.codes import actors
from bench.codes.degraded import degraded_rows
from bench.codes.hard_regime import hard_regime_rows
from bench.codes.latency import latency_rows
from bench.seeded.row import Row

__all__ = ["rows"]


def rows() -> dict[str, Row]:
    """The rows by key."""
    return {row.key: row for row in (*degraded_rows(), *latency_rows(), actors.row(), *hard_regime_rows())}
