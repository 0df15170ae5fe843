"""What a user sees while a run goes on: a live bar on a terminal, a line a round elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from fedeff.core.records import RoundRecord

__all__ = ["Watcher", "live_bar", "watching"]


class Watcher(Protocol):
    """Told of each round of one run."""

    def __call__(self, record: "RoundRecord") -> None:
        """Show the round."""
        ...


@contextmanager
def watching(console: "Console", name: str, rounds: int | None, *, live: bool = True) -> Iterator[Watcher]:
    """Show a run of so many rounds (None: unknown) while this lasts.

    `live=False` prints lines on a terminal, too: an app that logs would tear the bar.
    """
    if not (live and console.is_terminal):
        yield _Lines(console, name, rounds)
        return
    bar = live_bar(console)
    task = bar.add_task(name, total=rounds, note="starting", left="")
    with bar:
        yield _Bar(bar, task, rounds)


class _Lines:
    def __init__(self, console: "Console", name: str, rounds: int | None) -> None:
        self._console, self._name, self._rounds = console, name, rounds

    def __call__(self, record: "RoundRecord") -> None:
        of = f"/{self._rounds}" if self._rounds else ""
        line = f"{self._name}  round {record.server_round}{of}  {_note(record)}"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class _Bar:
    def __init__(self, bar: "Progress", task: "TaskID", rounds: int | None) -> None:
        self._bar, self._task, self._rounds = bar, task, rounds
        self._wall_s: list[float] = []

    def __call__(self, record: "RoundRecord") -> None:
        self._wall_s.append(record.wall_s)
        self._bar.update(
            self._task,
            completed=record.server_round,
            note=_note(record),
            left=self._left(record.server_round),
        )

    def _left(self, server_round: int) -> str:
        """Time left, by the mean of the last ten rounds; the first also starts the engine."""
        if not self._rounds or len(self._wall_s) < 2:
            return ""
        from fedeff.report import human_seconds

        recent = self._wall_s[1:][-10:]
        left_s = (self._rounds - server_round) * sum(recent) / len(recent)
        return f"{human_seconds(round(left_s))} left" if left_s >= 0.5 else ""


def live_bar(console: "Console") -> "Progress":
    """A bar whose tasks have a `note` and what is `left`, in words."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TextColumn("[dim]{task.fields[left]}"),
        console=console,
    )


def _note(record: "RoundRecord") -> str:
    """Accuracy, bytes so far, virtual time and failures, in a few words."""
    from fedeff.report import human_bytes, human_seconds, percent

    words = [f"accuracy {percent(record.accuracy)}"] if record.accuracy is not None else []
    words.append(f"{human_bytes(record.uplink_bytes_total)} up")
    words.append(f"{human_bytes(record.downlink_bytes_total)} down")
    if record.virtual_s_total is not None:
        words.append(f"{human_seconds(record.virtual_s_total)} virtual")
    if lost := record.errors + record.missing:
        # The last round also counts what earlier ones left under way.
        within = lost <= record.cohort
        words.append(f"{lost} of {record.cohort} clients lost" if within else f"{lost} replies lost")
    return "  ".join(words)
