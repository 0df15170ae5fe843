"""Runs with codecs for any engine: `python -m apps.coded_players OUT` plays them all on Flower's own one.

A player is the built-in app with settings, or a strategy of Flower's with clients that know of codecs by
the mod alone. In between the clients forget what they keep, since every player names its exchanges from 1.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from apps import arithmetic
from apps.variants import settings_of
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Strategy

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.clients import codec_mod
from fedeff.compression import RecordCodec
from fedeff.core.layers import decode_record
from fedeff.core.records import RoundRecord
from fedeff.grids import CodecGrid, MeteredGrid, PassingGrid
from fedeff.strategies.cohorts import connected_nodes

CLIENTS, ROUNDS = 4, 4

Arrays = dict[str, np.ndarray]

OURS: dict[str, dict[str, Any]] = {
    "fedavg": {"codec": "tern_grad", "codec_shared_scale": True},
    "fedlama": {"codec": "error_feedback(top_k(0.1))"},
    "fedavg both ways": {"codec": "ef21(top_k(0.1))", "down_codec": "uniform(8)", "down_difference": True},
    "partial by channel": {"codec": "qsgd(4)", "codec_difference": False},
}
STOCK: dict[str, Callable[[], Strategy]] = {
    "flwr.FedAvg": lambda: FedAvg(fraction_evaluate=0.5, min_available_nodes=CLIENTS),
    "flwr.FedAdam": lambda: FedAdam(fraction_evaluate=0.0, min_available_nodes=CLIENTS),
    "flwr.FedMedian": lambda: FedMedian(fraction_evaluate=0.0, min_available_nodes=CLIENTS),
}
PLAYERS = (*OURS, *STOCK)


def settings(player: str) -> Settings:
    """Everybody takes part, since Flower numbers its nodes as it likes; the plain loop gives equal bits."""
    changes = {"cohort": CLIENTS, "num_server_rounds": ROUNDS, "local_steps": 4, "vectorise": "never"}
    variant = player if player == "partial by channel" else player.partition(" ")[0]
    return settings_of(variant, **changes, **OURS[player])


def clients() -> ClientApp:
    """The clients of all players: a train message without a round is of a strategy of Flower's."""
    stock = ClientApp(mods=[codec_mod])
    stock.train()(arithmetic.train)
    stock.evaluate()(arithmetic.evaluate)
    ours = client_app_of(settings("fedavg"))
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        return (stock if message.content["config"].get("stock") else ours)(message, context)

    app.train()(answer)
    app.evaluate()(answer)

    @app.query()
    def forget(message: Message, context: Context) -> Message:
        for key in list(context.state):
            del context.state[key]
        return Message(RecordDict(), reply_to=message)

    return app


def played(player: str, grid: Grid, context: Context) -> Arrays:
    """What a player comes to on some Grid: the model, and the bytes that went each way by exchange."""
    nodes = connected_nodes(grid, CLIENTS, wait_s=60)
    grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes])
    if player in STOCK:
        return _played_by_flower(STOCK[player](), grid)
    records: list[RoundRecord] = []
    own = Context(context.run_id, context.node_id, {}, RecordDict(), settings(player).run_config())
    server_app(on_round=records.append)(grid=grid, context=own)
    sizes = np.array([(one.downlink_bytes, one.uplink_bytes, one.refused) for one in records])
    return {**decode_record(own.state["model"]), "sizes": sizes}


class _InOrder(PassingGrid):
    """Replies by partition: Flower's strategies sum them as they come, which no engine promises."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        return sorted(replies, key=_partition)


def _partition(reply: Message) -> int:
    """Of an evaluation 0: it says none, and changes no array."""
    return int(reply.content["metrics"].get("partition-id", 0))


def _played_by_flower(strategy: Strategy, grid: Grid) -> Arrays:
    metered = MeteredGrid(grid)
    coded = _InOrder(CodecGrid(metered, up=RecordCodec.of("tern_grad"), down=RecordCodec.of("raw")))
    config = ConfigRecord({"stock": True})
    start: ArrayRecord = arithmetic.start_arrays()
    result = strategy.start(coded, start, ROUNDS, train_config=config, evaluate_config=config)
    sizes = [(one.downlink_bytes, one.uplink_bytes) for one in metered.exchanges]
    assert result.arrays is not None
    return {**decode_record(result.arrays), "sizes": np.array(sizes)}


def main(out: str) -> None:
    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        found = {}
        for player in PLAYERS:
            found |= {f"{player}/{key}": values for key, values in played(player, grid, context).items()}
        np.savez(out, **found)

    from flwr.simulation import run_simulation

    run_simulation(
        app,
        clients(),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"include_dashboard": False}},
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
