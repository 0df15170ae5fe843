"""All rows of the page, in their order; a row is a module of its own and a line here."""

from bench.clients import force_cnn, iss_lstm, per_ssfl, slim_qn, smooth_out, ssl_cnn
from bench.seeded.row import Row

__all__ = ["rows"]


def rows() -> dict[str, Row]:
    """The rows by key."""
    modules = (smooth_out, ssl_cnn, iss_lstm, force_cnn, slim_qn, per_ssfl)
    return {row.key: row for row in (module.row() for module in modules)}
