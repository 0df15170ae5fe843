"""What a run was asked to do, and on what it ran, as tables."""

from fedeff.report.page import Section, Table
from fedeff.report.run import Run

__all__ = ["configuration_section"]

_TABLES = {
    "": "Run",
    "config": "Settings",
    "simulation": "Simulation",
    "deployment": "Deployment",
}  # of config.toml


def configuration_section(run: Run) -> Section | None:
    """A table for each part of the configuration, the longest first; nothing where there is none."""
    by_title: dict[str, list[tuple[str, str]]] = {}
    for key, value in run.settings.items():
        table, _, name = key.rpartition(".")
        by_title.setdefault(_TABLES.get(table, table), []).append((name, _said(value)))
    by_title["Environment"] = list(run.summary.environment.items())
    tables = [
        Table((), tuple(rows), numbers=False, title=title)
        for title, rows in sorted(by_title.items(), key=lambda item: -len(item[1]))
        if rows
    ]
    return Section("Configuration", tables=tuple(tables)) if tables else None


def _said(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value == "" else str(value)
