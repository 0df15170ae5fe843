"""Draws what travels when under each strategy, from real messages: `docs/images/travel-<strategy>.svg`.

python docs/travel_pictures.py [STRATEGY...]

A few clients train a small network for twelve rounds; a Grid beneath the strategy notes which layers every
message and every reply holds.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from matplotlib.figure import Figure

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.layers import decode, layer_of
from fedeff.grids import Cohort, PassingGrid
from fedeff.report.theme import MUTED, SERIES, figure, quiet, write_figure
from fedeff.simulation import run_simulation
from fedeff.strategies import strategy_names

ROUNDS, CLIENTS, COHORT = 12, 8, 4
IMAGES = Path(__file__).parent / "images"
SHOWN: dict[str, Mapping[str, Any]] = {
    "fedlama": {"phi": 4},
    "fedbuff": {"buffer": 2},
    "partial": {"groups": 3},
    "gradient-coding": {"cohort": CLIENTS},
    "diloco": {"fragments": 3, "optimizer": "adamw", "learning-rate": 0.003},
}


class Travel(dict[tuple[str, str, int], float]):
    """Entries that travelled, by direction, layer and round: the mean over a round's messages."""

    def note(self, direction: str, server_round: int, messages: Iterable[Message]) -> None:
        """Count the arrays in some messages of one round."""
        messages = [message for message in messages if message.has_content()]
        for message in messages:
            for record in message.content.values():
                for key, array in record.items() if isinstance(record, ArrayRecord) else ():
                    layer = layer_of(key.partition("[")[0])
                    cell = direction, layer, server_round
                    self[cell] = self.get(cell, 0.0) + decode(array).size / len(messages)


class WatchedGrid(PassingGrid):
    """Passes everything on and notes it."""

    def __init__(self, grid: Grid, travel: Travel) -> None:
        super().__init__(grid)
        self._travel, self._round = travel, 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Note the messages on their way down."""
        return self.grid.push_messages(self._down(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Note the replies on their way up."""
        return self._up(self.grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Note both ways."""
        return self._up(self.grid.send_and_receive(self._down(messages), timeout=timeout))

    def _down(self, messages: Iterable[Message]) -> list[Message]:
        sent = list(messages.messages if isinstance(messages, Cohort) else messages)
        if sent:
            self._round = int(sent[0].content["config"]["server-round"])  # type: ignore[call-overload,index]
        self._travel.note("down", self._round, sent)
        return sent

    def _up(self, replies: Iterable[Message]) -> list[Message]:
        arrived = list(replies)
        self._travel.note("up", self._round, arrived)
        return arrived


def travel_of(strategy: str) -> tuple[Travel, dict[str, int]]:
    """What travelled in a short run, and the entries of each layer."""
    settings = Settings.from_run_config(
        {
            "strategy": strategy,
            "dataset": "digits",
            "partition": "iid",
            "cohort": COHORT,
            "num-server-rounds": ROUNDS,
            "local-steps": 4,
            "evaluate-every": ROUNDS,
            **SHOWN.get(strategy, {}),
        }
    )
    travel = Travel()
    result = run_simulation(
        server_app(),
        client_app_of(settings),
        CLIENTS,
        engine="inline",
        run_config=settings.run_config(),
        meter=lambda grid: WatchedGrid(grid, travel),
    )
    sizes: dict[str, int] = defaultdict(int)
    for key, array in result.context.state["model"].items():
        sizes[layer_of(key)] += decode(array).size
    return travel, sizes


def drawn(strategy: str) -> Figure:
    """Layers down, rounds across; the upper half of a cell is the way down, the lower the way up."""
    travel, sizes = travel_of(strategy)
    layers = list(sizes)
    picture = figure(7.2, 0.62 * len(layers) + 0.9)
    axes = quiet(picture.add_subplot(), "Round", "", grid="")
    for row, layer in enumerate(layers):
        for server_round in range(1, ROUNDS + 1):
            for direction, top, colour in (("down", -0.34, SERIES[1].light), ("up", 0.02, SERIES[0].light)):
                share = travel.get((direction, layer, server_round), 0.0) / sizes[layer]
                box = (server_round - 0.44, row + top)
                axes.add_patch(_bar(box, 0.88, MUTED.light, 0.12))
                axes.add_patch(_bar(box, 0.88 * min(share, 1.0), colour, 0.95))
    axes.set_xlim(0.4, ROUNDS + 0.6)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_yticks(range(len(layers)), [f"{layer} ({sizes[layer]:,})" for layer in layers])
    axes.set_xticks(range(1, ROUNDS + 1))
    axes.set_title("upper bars: server to client, lower bars: client to server", fontsize=8.5)
    return picture


def _bar(corner: tuple[float, float], width: float, colour: str, opacity: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, 0.32, facecolor=colour, alpha=opacity, linewidth=0)


def main() -> None:
    """Draw the strategies named, or all."""
    for strategy in sys.argv[1:] or strategy_names():
        write_figure(drawn(strategy), str(IMAGES / f"travel-{strategy}.svg"), "svg")


if __name__ == "__main__":
    main()
