"""All rows of the page, in their order."""

from bench.codes.latency import latency_rows
from bench.seeded.row import Row

__all__ = ["rows"]


def rows() -> dict[str, Row]:
    """The rows by key."""
    return {row.key: row for row in latency_rows()}
