"""What an audit found, on a terminal: a line for each attack, why others were not tried, the sentence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from fedeff.audit.judging.trial import Trial
    from fedeff.audit.result import AuditResult

__all__ = ["show"]

_COLUMNS = ("attack", "leaks", "median dB", "undefended dB", "tokens", "labels", "unfinished", "seconds")
_STYLES = {0: "green", 1: "red", 2: "yellow"}


def show(console: "Console", result: "AuditResult") -> None:
    """Print the table, the attacks that were not tried, the guarantee, and the verdict's sentence."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "attack" else "right", no_wrap=name == "attack")
    for row in _rows(result):
        table.add_row(*row)
    console.print(table)
    for name, why in _not_tried(result.trials).items():
        console.print(Text(f"{name} was not tried: {why}", style="dim"), soft_wrap=True)
    console.print(Text(f"formal guarantee: {result.guarantee}", style="dim"), soft_wrap=True)
    console.print(Text(result.verdict.sentence, style=_STYLES[result.exit_code]), soft_wrap=True)


def _rows(result: "AuditResult") -> list[tuple[str, ...]]:
    from fedeff.audit.report.summary import attacks_in, summary_of

    rows: list[tuple[str, ...]] = []
    for name in attacks_in(result.trials):
        one = summary_of(name, result.trials, result.rules)
        control = summary_of(name, result.controls, result.rules)
        if one is not None:
            rows.append(
                (
                    name,
                    f"{one.leaks}/{one.tried}",
                    _said(one.median_db, ".1f"),
                    _said(control.median_db if control else None, ".1f"),
                    _said(one.tokens, ".0%"),
                    _said(one.labels_f1, ".0%"),
                    f"{one.unfinished}/{one.tried}",
                    f"{one.seconds:.2f}",
                )
            )
    return rows


def _said(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _not_tried(trials: "Sequence[Trial]") -> dict[str, str]:
    """The attacks that no victim was tried with, each with the reason of the first."""
    tried = {one.attack for trial in trials for one in trial.attempts}
    reasons: dict[str, str] = {}
    for trial in trials:
        reasons |= {name: why for name, why in trial.skipped.items() if name not in tried | set(reasons)}
    return reasons
