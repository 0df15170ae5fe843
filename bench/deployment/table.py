"""The rows of the page."""

from collections.abc import Mapping

from bench.deployment.speed import cnn, no_op, twenty
from bench.deployment.traffic import traffic
from bench.seeded.row import Row

__all__ = ["rows"]


def rows() -> Mapping[str, Row]:
    """All rows by key, in the order of the page."""
    return {row.key: row for row in (no_op(), cnn(), traffic(), twenty())}
