"""The built-in app with one strategy after the other, on any engine: a long start is then paid for once.

A player is a variant of `apps.variants`, or Flower's own FedAvg with the same clients; between two of them
the clients forget what they keep. `python -m apps.players OUT PLAYER...` lets them play on Flower's
simulation engine, in a process of its own because that engine starts and stops Ray as it likes.
"""

import sys
import warnings

import numpy as np
from apps.variants import settings_of
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.app.workload import new_model
from fedeff.core.layers import decode_record
from fedeff.core.records import RoundRecord
from fedeff.strategies.cohorts import connected_nodes

CLIENTS, ROUNDS = 4, 4
STOCK = "flwr.FedAvg"

Played = dict[str, np.ndarray]


def settings(player: str) -> Settings:
    """Everybody takes part, since Flower numbers its nodes as it likes; the plain loop gives equal bits."""
    changes = {"cohort": CLIENTS, "num_server_rounds": ROUNDS, "local_steps": 10, "vectorise": "never"}
    return settings_of("fedavg" if player == STOCK else player, **changes)


def server_of(players: list[str], found: dict[str, Played]) -> ServerApp:
    """Lets all of them play, and leaves in `found` what each comes to."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        for player in players:
            _let_forget(grid)
            found[player] = _played_by_flower(grid) if player == STOCK else _played(player, grid, context)
            print(player, "played", flush=True)

    return server


def clients() -> ClientApp:
    """The built-in clients, which forget what they keep when they are asked anything."""
    made = client_app_of(settings(STOCK))

    @made.query()
    def forget(message: Message, context: Context) -> Message:
        for key in list(context.state):
            del context.state[key]
        return Message(RecordDict(), reply_to=message)

    return made


def _let_forget(grid: Grid) -> None:
    nodes = connected_nodes(grid, CLIENTS, wait_s=60)
    grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes])


def _played(player: str, grid: Grid, context: Context) -> Played:
    """The final model, and what the records say."""
    records: list[RoundRecord] = []
    own = Context(context.run_id, context.node_id, {}, RecordDict(), settings(player).run_config())
    server_app(on_round=records.append)(grid=grid, context=own)
    return {
        **decode_record(own.state["model"]),
        "bytes by round": np.array([(one.downlink_bytes, one.uplink_bytes) for one in records]),
        # NaN for rounds that are not evaluated, such as those within a cycle.
        "accuracy by round": np.array([one.accuracy for one in records], float),
    }


def _played_by_flower(grid: Grid) -> Played:
    start = ArrayRecord(new_model(settings(STOCK)).state_dict())
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS)
    return dict(decode_record(strategy.start(grid, start, num_rounds=ROUNDS).arrays))


def main(out: str, *players: str) -> None:
    from flwr.simulation import run_simulation

    found: dict[str, Played] = {}
    run_simulation(
        server_of(list(players), found),
        clients(),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"include_dashboard": False}},
    )
    np.savez(out, **{f"{player}/{key}": v for player, played in found.items() for key, v in played.items()})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
