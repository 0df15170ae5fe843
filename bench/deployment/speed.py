"""Seconds a round, and where they go: clients that do nothing, and a CNN; three SuperNodes, then twenty."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.deployment.app import Config, built_in_app, no_op_app
from bench.deployment.loopback import Way
from bench.deployment.running import PEAK, Apps, side_by_side
from bench.deployment.timeline import ROUND
from bench.deployment.ways import AFTER, BEFORE, GRID, SHIM, WAYS
from bench.figures import Figure, Spread
from bench.seeded.row import Measured, Row, ratio
from fedeff.app.settings import Settings

__all__ = ["cnn", "no_op", "training", "twenty"]

_CLIENTS, _MANY = 3, 20
_NO_OP_ROUNDS, _CNN_ROUNDS, _MANY_ROUNDS = 6, 4, 3
_LIMIT_S = 7.0


def no_op() -> Row:
    """Clients that answer at once."""
    told = {"clients": _CLIENTS, "rounds": _NO_OP_ROUNDS, "after polls every": AFTER.poll_s or 0.0}
    return Row("no-op", "A round of no-ops, 3 SuperNodes", told, _no_op, _no_op_figures, _NO_OP_NOTE)


def cnn() -> Row:
    """The built-in app."""
    config = training(_CLIENTS, _CNN_ROUNDS)
    told = {"clients": _CLIENTS, "after polls every": AFTER.poll_s or 0.0, **_changed(config)}
    return Row("cnn", "A CNN on Fashion-MNIST, 3 SuperNodes", told, _cnn, _cnn_figures, _CNN_NOTE)


def twenty() -> Row:
    """Twenty SuperNodes on one machine."""
    told = {"clients": _MANY, "rounds": _MANY_ROUNDS, "after polls every": AFTER.poll_s or 0.0}
    return Row(
        "twenty", "20 SuperNodes on one machine", told, _twenty, _twenty_figures, _TWENTY_NOTE, range(1)
    )


def training(clients: int, rounds: int, codec: str = "") -> Config:
    """The run's configuration: a CNN of which each client makes 20 steps a round, evaluated at the end."""
    settings = Settings(
        cohort=clients,
        num_server_rounds=rounds,
        model="cnn",
        dataset="fashion-mnist",
        local_steps=20,
        evaluate_every=rounds,
        codec=codec,
    )
    return settings.run_config()


def _no_op(seed: int) -> Measured:
    return side_by_side(WAYS, _CLIENTS, _no_ops(_CLIENTS, _NO_OP_ROUNDS), seed)


def _cnn(seed: int) -> Measured:
    def app(folder: Path, way: Way, out: Path) -> Path:
        config = training(_CLIENTS, _CNN_ROUNDS)
        return built_in_app(folder, config, clients=_CLIENTS, flowers_own=way.flowers_own, out=out)

    return side_by_side(WAYS, _CLIENTS, app, seed)


def _twenty(seed: int) -> Measured:
    return side_by_side((BEFORE, AFTER, SHIM), _MANY, _no_ops(_MANY, _MANY_ROUNDS), seed, memory=True)


def _no_ops(clients: int, rounds: int) -> Apps:
    def app(folder: Path, way: Way, out: Path) -> Path:
        return no_op_app(folder, clients=clients, rounds=rounds, flowers_own=way.flowers_own, out=out)

    return app


def _no_op_figures(seeds: Sequence[Measured]) -> list[Figure]:
    after = _seconds(seeds, AFTER)
    return [
        Figure("a round, Flower's grid", _seconds(seeds, BEFORE), unit="s", digits=1),
        Figure("a round, PromptGrid and `fedeff deploy up`", after, at_most=_LIMIT_S, unit="s", digits=1),
        Figure("a round, prompt clients", _seconds(seeds, SHIM), unit="s", digits=1),
        *_gains(seeds),
    ]


def _cnn_figures(seeds: Sequence[Measured]) -> list[Figure]:
    return _gains(seeds)


def _gains(seeds: Sequence[Measured]) -> list[Figure]:
    ways = (
        (GRID, "PromptGrid alone"),
        (AFTER, "PromptGrid and `fedeff deploy up`"),
        (SHIM, "prompt clients"),
    )
    return [Figure(f"before ÷ {name}", ratio(seeds, ROUND, BEFORE.name, way.name)) for way, name in ways]


def _twenty_figures(seeds: Sequence[Measured]) -> list[Figure]:
    return [
        Figure(f"20 nodes, {way.name}: {what}", _spread(seeds, way, measure), unit=unit, digits=1)
        for way in (AFTER, SHIM)
        for what, measure, unit in (("a round", ROUND, "s"), ("memory", PEAK, "GB"))
    ]


def _seconds(seeds: Sequence[Measured], way: Way) -> Spread | None:
    return _spread(seeds, way, ROUND)


def _spread(seeds: Sequence[Measured], way: Way, measure: str) -> Spread | None:
    values = [measured[way.name].get(measure) for measured in seeds if way.name in measured]
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None


def _changed(config: Config) -> Mapping[str, bool | int | float | str]:
    plain = Settings().run_config()
    return {key: value for key, value in config.items() if plain.get(key) != value}


_CAUSES = """The columns after "replies" are medians by cause on the way of the node that answered last;
they add up to the round. *push*: the server hands its messages to the SuperLink. *idle node*: the
SuperNode sleeps between two looks for a message, 3 s in Flower. *message*: it pulls the message. *task
poll*: its SuperExec looks for a task, every second in Flower. *process*: a process starts and imports
flwr, or is forked. *app*: it unpacks and imports the app. *client*: the app answers. *reply poll*: the
SuperNode looks for the reply, every half second in Flower. *reply*: it pushes it to the SuperLink.
*grid*: the Grid looks for it, every 3 s in Flower, and pulls it. A reply that is found before all its
parts are at the SuperLink costs a second there."""
_NO_OP_NOTE = f"""{_NO_OP_ROUNDS} rounds of one `train` message to each of {_CLIENTS} SuperNodes, all on
this machine, each answered at once. Every way has a deployment of its own; the ways take turns.
{_CAUSES}"""
_CNN_NOTE = f"""{_CNN_ROUNDS} rounds of the built-in app: {_CLIENTS} clients with a third of Fashion-
MNIST each make 20 steps of batch 10 a round; every client's process imports torch, unless it is forked
from one that has. On a SuperLink's grid the app packs the arrays of a message into one, in all cases but
Flower's grid. Columns as above."""
_TWENTY_NOTE = f"""{_MANY_ROUNDS} rounds of no-ops with {_MANY} SuperNodes. Memory is the largest sum of
the PSS of the SuperLink, the SuperNodes and all they start, sampled every second; with prompt clients
each SuperNode keeps a process that holds torch. Columns as above."""
