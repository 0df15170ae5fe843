"""ServerApps that write down when each of their sendings began, was pushed and was answered."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedeff.core.records import RoundRecord
from fedeff.grids import PassingGrid, PromptGrid, Taps
from fedeff.strategies.cohorts import connected_nodes

__all__ = ["built_in", "no_ops"]

_WAIT_S = 300.0


@dataclass
class _Sending:
    """One `send_and_receive`, in seconds since 1970."""

    kind: str
    begun_s: float
    pushed_s: float = 0.0
    ended_s: float = 0.0
    replies: int = 0


class _Noted(PassingGrid):
    """Another Grid, whose sendings are noted."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.sendings: list[_Sending] = []

    def note_pushes(self, grid: Grid) -> None:
        """Note when Flower's grid, which this one is around at last, has pushed a sending's messages."""
        push: Callable[[Iterable[Message]], Iterable[str]] = grid.push_messages

        def pushed(messages: Iterable[Message]) -> Iterable[str]:
            ids = push(messages)
            if self.sendings:  # clients were asked who they are before
                self.sendings[-1].pushed_s = time.time()
            return ids

        # On the instance: Flower's `send_and_receive` calls it, and so does ours.
        grid.push_messages = pushed  # type: ignore[method-assign]

    def around(self, grid: Grid) -> Grid:
        """This one, around another Grid from now on."""
        self.grid = grid
        return self

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive, and note it."""
        held = list(messages)
        if not held:
            return []
        sending = _Sending(held[0].metadata.message_type, time.time())
        self.sendings.append(sending)
        replies = list(self.grid.send_and_receive(held, timeout=timeout))
        sending.ended_s, sending.replies = time.time(), sum(reply.has_content() for reply in replies)
        return replies


def no_ops(grid: Grid, clients: int, rounds: int, flowers_own: bool, out: str) -> None:
    """Rounds in which every client is asked, and answers at once."""
    noted = _Noted(grid if flowers_own else PromptGrid(grid))
    noted.note_pushes(grid)
    nodes = connected_nodes(grid, clients, _WAIT_S)
    for server_round in range(1, rounds + 1):
        content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
        messages = [Message(content, node, "train", group_id=str(server_round)) for node in nodes]
        noted.send_and_receive(messages, timeout=_WAIT_S)
    _write(out, noted)


def built_in(grid: Grid, context: Context, clients: int, flowers_own: bool, out: str) -> None:
    """The rounds of the built-in server, as the run's configuration says.

    With `flowers_own` it does not know Flower's grid for one of a SuperLink, and takes it as it is.
    """
    from fedeff.app.server import server_app

    noted, records = _Noted(grid), list[RoundRecord]()
    noted.note_pushes(grid)
    connected_nodes(grid, clients, _WAIT_S)
    taps = Taps() if flowers_own else Taps(wire=noted.around)
    server_app(on_round=records.append, taps=taps)(grid=noted if flowers_own else grid, context=context)
    _write(
        out,
        noted,
        uplink_bytes=sum(record.uplink_bytes for record in records),
        downlink_bytes=sum(record.downlink_bytes for record in records),
        accuracy=records[-1].accuracy,
    )


def _write(out: str, noted: _Noted, **more: Any) -> None:
    told = {"sendings": [asdict(sending) for sending in noted.sendings], "ended_s": time.time(), **more}
    Path(out).write_text(json.dumps(told))
