"""The report of an audit: a page, Markdown, JSON and pictures, made from the result alone."""

from fedeff.audit.report.writing import write_audit, write_matrix

__all__ = ["write_audit", "write_matrix"]
