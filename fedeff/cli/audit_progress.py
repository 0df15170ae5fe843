"""What a user sees while an audit goes on: a live bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedeff.cli.progress import live_bar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from fedeff.audit.attempts import OnProgress, Progress

__all__ = ["watching_audit"]

_LINE_EVERY_S = 10.0


@contextmanager
def watching_audit(console: "Console", name: str) -> "Iterator[OnProgress]":
    """Show how far an audit is while this lasts."""
    if not console.is_terminal:
        yield _Lines(console, name)
        return
    bar = live_bar(console)
    task = bar.add_task(name, total=None, note="starting", left="")
    with bar:
        yield _Live(bar, task)


class _Lines:
    """The first step of each kind, then one every ten seconds, and the last."""

    def __init__(self, console: "Console", name: str) -> None:
        self._console, self._name, self._shown_s = console, name, -_LINE_EVERY_S

    def __call__(self, progress: "Progress") -> None:
        now_s = time.monotonic()
        at_an_end = progress.done in (0, progress.total)
        if not at_an_end and now_s < self._shown_s + _LINE_EVERY_S:
            return
        self._shown_s = now_s
        of = f"{progress.done}/{progress.total}  " if progress.total > 1 else ""
        line = f"{self._name}  {of}{progress.note}"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class _Live:
    def __init__(self, bar: "Bar", task: "TaskID") -> None:
        self._bar, self._task = bar, task

    def __call__(self, progress: "Progress") -> None:
        total = progress.total if progress.total > 1 else None
        self._bar.update(self._task, completed=progress.done, total=total, note=progress.note)
