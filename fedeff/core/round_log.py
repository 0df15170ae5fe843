"""From exchanges to rounds: the log that a run keeps while it goes on."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedeff.core.records import (
    Aggregation,
    Exchange,
    RoundRecord,
    append_round,
    merge_exchanges,
    read_rounds,
)

__all__ = ["RoundLog"]


class RoundLog:
    """Gathers exchanges into rounds and appends each finished round to `rounds.jsonl`.

    Give `add` to a `MeteredGrid`. An app that owns its loop calls `close_round` with the accuracy it
    measured. For a foreign app nobody does: with `closes_itself` an exchange of a later round closes the
    open one, and `close` the last. An existing file is continued: its totals go on. Not for several threads.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        closes_itself: bool = False,
        on_round: Callable[[RoundRecord], None] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open a log; `path=None` keeps no file. `on_round` is told of every finished round."""
        self.path = path
        self.last: RoundRecord | None = None
        if path is not None and (rounds := read_rounds(path)):
            self.last = rounds[-1]
        self._closes_itself = closes_itself
        self._on_round = on_round
        self._timer = timer
        self._opened_s = timer()
        self._exchanges: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """Count an exchange in the open round; one of a later round closes a log that closes itself."""
        if (
            self._closes_itself
            and self._exchanges
            and exchange.server_round > self._exchanges[-1].server_round
        ):
            self.close_round(self._exchanges[-1].server_round)
        self._exchanges.append(exchange)

    def close_round(
        self,
        server_round: int,
        *,
        accuracy: float | None = None,
        loss: float | None = None,
        aggregation: Aggregation | None = None,
        parameters: int | None = None,
        measures: Mapping[str, float] | None = None,
    ) -> RoundRecord:
        """Write and return the record of the open round; its wall time starts at the last close."""
        now_s = self._timer()
        record = merge_exchanges(
            server_round,
            self._exchanges,
            self.last,
            accuracy=accuracy,
            loss=loss,
            wall_s=now_s - self._opened_s,
            aggregation=aggregation,
            parameters=parameters,
            measures=measures,
        )
        if self.path is not None:
            append_round(self.path, record)
        self._exchanges, self._opened_s, self.last = [], now_s, record
        if self._on_round is not None:
            self._on_round(record)
        return record

    def close(self) -> None:
        """Close the round that is still open, if anything was exchanged in it."""
        if self._exchanges:
            self.close_round(self._exchanges[-1].server_round)
