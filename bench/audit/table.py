"""All rows of the page, in their order."""

from bench.audit import breaching, colours, labels, masked, matrix, quick, rectified, text, verdicts
from bench.audit.digits import digit_rows
from bench.seeded.row import Row

__all__ = ["rows"]


def rows() -> dict[str, Row]:
    """The rows by key."""
    found = (
        quick.row(),
        *digit_rows(),
        rectified.row(),
        colours.row(),
        labels.row(),
        text.row(),
        masked.row(),
        verdicts.row(),
        breaching.row(),
        matrix.row(),
    )
    return {row.key: row for row in found}
