"""Views from anyone's Flower app: it runs as it is, and a tap shows what its clients send."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedeff.app.foreign import ForeignApp
from fedeff.audit.capturing.capture import Captured
from fedeff.audit.capturing.dialogue import parsed
from fedeff.audit.capturing.rows import joined
from fedeff.audit.truth import Truth
from fedeff.audit.view import Exchange, NDArray, Public, ServerView, Told
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.layers import decode_record, payload_bytes
from fedeff.grids import Folded, TapGrid
from fedeff.simulation import run_simulation

__all__ = ["RowsOf", "capture_foreign"]

RowsOf = Callable[[int, int], Truth]  # of a partition in a round: the rows that it trained on
Value = bool | int | float | str

_EXAMPLES = "num-examples"
_ROUND_KEYS = ("server-round", "server_round")


class _EnoughError(Exception):
    """The rounds that were wanted are over; ends an app that knows nothing of them."""


def capture_foreign(
    folder: Path | str,
    public: Public,
    rows_of: RowsOf,
    training: LocalTraining,
    clients: int,
    *,
    victims: Sequence[int] | None = None,
    rounds: int = 1,
    after_round: int = 0,
    overrides: Mapping[str, Value] | None = None,
    seed: int | None = None,
) -> list[Captured]:
    """What the server of a Flower app sees of each victim, in `rounds` rounds after the first `after_round`.

    The app's own ServerApp and ClientApp run in this process, on so many clients. Wherever a client
    answers a message to train with arrays of the keys that it was sent, that is an exchange: what it
    sends is taken for its weights after `training`, what it was sent for those before. Nothing says so
    but the caller, who knows the app; whatever mods its client has are in what is seen, and any noise of
    theirs is on no record. `rows_of` tells the truth. `overrides` replace values of the app's run config.

    Not for apps that compress or mask what they send: their arrays have other keys or shapes.

    Raises:
        AppError: if the folder holds no app.
        AuditError: if no such exchange came, or its arrays are not those of the public network.
    """
    if rounds < 1 or after_round < 0:
        raise ConfigError(f"rounds = {rounds} after round {after_round}; expected 1 or more after 0 or more")
    app = ForeignApp.load(Path(folder), dict(overrides or {}))
    listener = _Listener(range(after_round + 1, after_round + rounds + 1), training)

    def tapped(grid: Grid) -> TapGrid:
        listener.nodes = sorted(grid.get_node_ids())
        return TapGrid(grid, listener)

    with suppress(_EnoughError):
        run_simulation(
            app.server,
            app.client,
            clients,
            run_config=dict(app.run_config),
            engine="inline",
            seed=seed,
            app_dir=app.folder,
            meter=tapped,
        )
    chosen = sorted(listener.seen) if victims is None else list(victims)
    if not chosen or any(one not in listener.seen for one in chosen):
        raise AuditError(
            f"{app.name}: no client, or not every victim, answered with the arrays that it was sent in these "
            "rounds; name victims that take part, and check that the app sends whole models"
        )
    _check_network(public, listener.seen[chosen[0]][0][0], app.name)
    return [_captured(public, victim, listener.seen[victim], rows_of) for victim in chosen]


def _captured(public: Public, victim: int, seen: Sequence[tuple[Exchange, int]], rows_of: RowsOf) -> Captured:
    truths = [rows_of(victim, exchange.server_round) for exchange, _ in seen]
    first = truths[0]
    same = all(np.array_equal(one.inputs, first.inputs) for one in truths)
    view = ServerView(public, tuple(exchange for exchange, _ in seen), None, same)
    return Captured(view, first if same else joined(truths), victim, sum(size for _, size in seen))


class _Listener:
    """Makes exchanges of what a tap shows, by partition, each with its payload."""

    def __init__(self, wanted: range, training: LocalTraining) -> None:
        self.nodes: list[int] = []
        self.seen: defaultdict[int, list[tuple[Exchange, int]]] = defaultdict(list)
        self._wanted, self._training, self._round = wanted, training, 0

    def asking(self, messages: tuple[Message, ...]) -> None:
        """Note the round that begins, and end the run after the last one that is wanted."""
        training = [message for message in messages if _trains(message)]
        if training:
            named = _round_of(training[0])
            self._round = self._round + 1 if named is None else named
            if self._round >= self._wanted.stop:
                raise _EnoughError

    def answered(self, sent: Message, reply: Message) -> None:
        """Make an exchange of a pair that is one."""
        named = _round_of(sent)
        server_round = self._round if named is None else named
        if not _trains(sent) or reply.has_error() or server_round not in self._wanted:
            return
        pair = _same_keys(sent, reply)
        if pair is None:
            return
        weights, after = {key: np.array(one) for key, one in decode_record(pair[0]).items()}, parsed(pair[1])
        exchange = Exchange(
            server_round=server_round,
            weights=weights,
            told=_changes(weights, after),
            training=self._training,
            examples=_examples(reply),
        )
        partition = self.nodes.index(sent.metadata.dst_node_id)
        self.seen[partition].append((exchange, payload_bytes(reply.content)))

    def summed(self, sent: tuple[Message, ...], total: Folded) -> None:
        """An app whose strategy has sums made on the workers shows no single update here."""
        raise AuditError(
            "replies were summed on the workers, where no tap is; let the strategy fold on the server"
        )


def _changes(weights: Mapping[str, NDArray], after: Mapping[str, NDArray]) -> dict[str, Told]:
    for key, values in after.items():
        if values.shape != weights[key].shape:
            raise AuditError(
                f"array {key!r} was sent with shape {weights[key].shape} and came back with {values.shape}; "
                "only apps whose clients send whole models can be audited"
            )
    return {key: Told(values - weights[key].astype(np.float64)) for key, values in after.items()}


def _same_keys(sent: Message, reply: Message) -> tuple[ArrayRecord, ArrayRecord] | None:
    """The first record of arrays in each that have the same keys."""
    for back in reply.content.values():
        for record in sent.content.values():
            both = isinstance(back, ArrayRecord) and isinstance(record, ArrayRecord)
            if both and len(back) and back.keys() == record.keys():
                return record, back  # type: ignore[return-value]
    return None


def _check_network(public: Public, exchange: Exchange, name: str) -> None:
    state: Mapping[str, Any] = public.network().state_dict()
    shapes = {key: tuple(values.shape) for key, values in state.items()}
    seen = {key: values.shape for key, values in exchange.weights.items()}
    if seen != shapes:
        wrong = next(key for key in [*seen, *shapes] if seen.get(key) != shapes.get(key))
        raise AuditError(
            f"{name} sends array {wrong!r} of shape {seen.get(wrong, 'none')}, the network has "
            f"{shapes.get(wrong, 'none')} there; name the network that the app trains"
        )


def _trains(message: Message) -> bool:
    kind: str = message.metadata.message_type.partition(".")[0]
    return kind == "train" and message.has_content()


def _round_of(message: Message) -> int | None:
    """The round that a message names in a configuration or as its group."""
    for record in message.content.values():
        for key in _ROUND_KEYS:
            if isinstance(record, ConfigRecord) and isinstance(value := record.get(key), int):
                return value
    group = message.metadata.group_id
    return int(group) if group.isascii() and group.isdigit() else None


def _examples(reply: Message) -> int:
    for record in reply.content.values():
        if isinstance(record, MetricRecord) and isinstance(value := record.get(_EXAMPLES), int | float):
            return int(value)
    return 0
