"""The round loop: a strategy, a Grid and where the run stands in; the next standing out.

Unlike `Strategy.start` it can begin after any round, evaluates when asked to, stops at a target and
hands over every round as it ends. It knows neither files nor configuration.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedeff.core.errors import EngineError
from fedeff.core.records import Aggregation, RoundRecord
from fedeff.grids import Folded
from fedeff.strategies import FedAvg

__all__ = ["RoundBook", "Schedule", "Score", "Versions", "run_rounds"]

_log = logging.getLogger(__name__)
_SCALE = "learning-rate-scale"
_MOST_LOST = 3  # rounds on end in which all clients fail, before the run does


@dataclass(frozen=True)
class Score:
    """The global model on the server's test data."""

    accuracy: float  # in [0, 1]
    loss: float  # mean over rows, in nats
    measures: Mapping[str, float] = field(default_factory=dict, hash=False)  # of the model, beside these


@dataclass(frozen=True)
class Schedule:
    """How long a run goes on, and when its model is evaluated."""

    rounds: int
    evaluate_every: int = 1
    evaluate_clients: int = 0  # 0: no federated evaluation
    target_accuracy: float = 0.0  # 0: never stop early
    learning_rate: Literal["constant", "cosine", "linear"] = "constant"  # how it falls over the rounds
    timeout_s: float | None = None  # for which a round waits for replies; None: as long as it takes

    def train_config(self, server_round: int) -> ConfigRecord:
        """What clients are told in this round, whatever the strategy: nothing, or the learning rate's scale.

        The scale falls from 1 in the first round to nearly 0 in the last: of `rounds` T and t of them
        behind, `(1 + cos(pi t / T)) / 2` (Loshchilov & Hutter, arXiv:1608.03983, eq. 5), or `1 - t / T`.
        """
        behind = (server_round - 1) / self.rounds
        if self.learning_rate == "cosine":
            return ConfigRecord({_SCALE: (1 + math.cos(math.pi * behind)) / 2})
        return ConfigRecord({_SCALE: 1 - behind} if self.learning_rate == "linear" else {})

    def evaluates(self, first: int, last: int) -> bool:
        """Whether the model of round `last` is evaluated, the first whole one since round `first - 1`.

        An evaluation that falls into a cycle is put off to its end; the last round's model always is.
        """
        return last // self.evaluate_every > (first - 1) // self.evaluate_every or last == self.rounds

    def ends(self, done: int, accuracy: float | None) -> bool:
        """Whether no round follows this one: all are done, or it reached the target accuracy."""
        reached = accuracy is not None and accuracy >= self.target_accuracy > 0
        return done >= self.rounds or (done > 0 and reached)


class RoundBook(Protocol):
    """Where finished rounds are written; `fedeff.core.round_log.RoundLog` is one."""

    last: RoundRecord | None

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
        """Write the record of the round that was open."""
        ...


class Versions(Protocol):
    """What becomes of the model between rounds; `fedeff.app.versions.ModelVersions` is one."""

    def told(self) -> Mapping[str, ConfigRecordValues]:
        """What every message of a round says of the model's version."""
        ...

    def after(self, first: int, last: int, model: ArrayRecord) -> ArrayRecord | None:
        """The model of other arrays that takes the place of round `last`'s; None where that one stays."""
        ...


class _OneVersion:
    """The model stays what it is."""

    def told(self) -> Mapping[str, ConfigRecordValues]:
        return {}

    def after(self, first: int, last: int, model: ArrayRecord) -> ArrayRecord | None:
        return None


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    model: ArrayRecord,
    schedule: Schedule,
    *,
    book: RoundBook,
    evaluate: Callable[[ArrayRecord], Score | None],
    keep: Callable[[int, ArrayRecord], None],
    settle: Callable[[], None] = lambda: None,
    versions: Versions | None = None,
    tells: Mapping[str, ConfigRecordValues] | None = None,
    done: int = 0,
) -> ArrayRecord:
    """The model after the rounds that are left of the schedule.

    `done` rounds are behind, with `model` as their result and `book.last` as the record of the last.
    Each round is recorded first and then given to `keep(server_round, model)`, so that whoever finds
    a kept model finds its record too. Before the record of the last one `settle()` is called: nobody waits
    any longer for what is still under way. After a round that another follows `versions` may put a model of
    other arrays in the place of the one it made; strategy and Grid then forget what they keep of the old one.
    Every message's configuration says what `tells` holds.

    Raises:
        EngineError: if every client that answered did so with an error, in the first round or in three
            rounds on end; later rounds would, too.
    """
    if isinstance(strategy, FedAvg):
        grid, strategy.last_round = strategy.over(grid), schedule.rounds
    failures, versions = _Failures(begun=done > 0), versions or _OneVersion()
    accuracy = book.last.accuracy if book.last else None
    while not schedule.ends(done, accuracy):
        done += 1
        told = ConfigRecord({**(tells or {}), **versions.told()})
        model = _train(strategy, grid, model, done, schedule, told, failures)
        score, since = None, _settled_since(strategy, done)
        if schedule.evaluates(since, done):
            score = evaluate(model)
            if schedule.evaluate_clients:
                _evaluate_on_clients(strategy, grid, model, done, schedule, told)
        accuracy = score.accuracy if score else None
        if schedule.ends(done, accuracy):
            settle()
        record = book.close_round(
            done,
            accuracy=accuracy,
            loss=score.loss if score else None,
            aggregation=_aggregation(strategy, grid),
            parameters=sum(math.prod(array.shape) for array in model.values()),
            measures=_measures(strategy, grid, score),
        )
        if not schedule.ends(done, accuracy) and (other := versions.after(since, done, model)) is not None:
            model = other
            _forget_model(strategy, grid)
        keep(done, model)
        _log.info("round %d of %d: %s", done, schedule.rounds, _in_words(record))
    return model


def _train(
    strategy: Strategy,
    grid: Grid,
    model: ArrayRecord,
    server_round: int,
    schedule: Schedule,
    told: ConfigRecord,
    failures: "_Failures",
) -> ArrayRecord:
    config = ConfigRecord({**schedule.train_config(server_round), **told})
    messages = strategy.configure_train(server_round, model, config, grid)
    replies = failures.seen_in(grid.send_and_receive(messages, timeout=schedule.timeout_s))
    merged, _ = strategy.aggregate_train(server_round, replies)
    failures.check(server_round)
    return model if merged is None else merged


def _evaluate_on_clients(
    strategy: Strategy,
    grid: Grid,
    model: ArrayRecord,
    server_round: int,
    schedule: Schedule,
    told: ConfigRecord,
) -> None:
    messages = strategy.configure_evaluate(server_round, model, told, grid)
    replies = grid.send_and_receive(messages, timeout=schedule.timeout_s)
    strategy.aggregate_evaluate(server_round, replies)


def _forget_model(strategy: Strategy, grid: Grid) -> None:
    """Tell those who keep something of the model's arrays that the next round's are others."""
    if isinstance(strategy, FedAvg):
        strategy.model_replaced()
    if hasattr(grid, "model_replaced"):  # where a codec keeps something for clients
        grid.model_replaced()


def _settled_since(strategy: Strategy, server_round: int) -> int:
    """The first round of those whose result this round's model is; the next round while there is none."""
    since = strategy.settled_since(server_round) if isinstance(strategy, FedAvg) else server_round
    return server_round + 1 if since is None else since


def _aggregation(strategy: Strategy, grid: Grid) -> Aggregation:
    """What a strategy of ours says of its last round, and how many replies a codec could not read.

    Flower's own strategies say nothing.
    """
    unreadable = len(grid.take_refused()) if hasattr(grid, "take_refused") else 0
    if not isinstance(strategy, FedAvg):
        return Aggregation(unreadable)
    return Aggregation(
        len(strategy.refused) + unreadable,
        len(strategy.need_full),
        strategy.synchronised,
        strategy.estimated,
    )


def _measures(strategy: Strategy, grid: Grid, score: Score | None) -> dict[str, float]:
    """What was measured of the model, where it was evaluated, and of the round, by strategy and Grid."""
    of_round = strategy.measures if isinstance(strategy, FedAvg) else {}
    return {**(score.measures if score else {}), **of_round, **getattr(grid, "measures", {})}


class _Failures:
    """What goes wrong among replies: how many of a round fail, the first reason, lost rounds on end."""

    def __init__(self, begun: bool) -> None:
        self.lost_rounds = 0 if begun else _MOST_LOST - 1  # the first round's loss alone ends a run
        self._begin_round()

    def _begin_round(self) -> None:
        self.count = 0
        self.successes = 0
        self.first = ""

    def seen_in(self, replies: Iterable[Message]) -> Iterable[Message]:
        """The same replies; a list stays a list, since a strategy may read it twice."""
        if isinstance(replies, Iterator):
            return self._on_the_way(replies)
        for reply in replies:
            self._see(reply)
        return replies

    def _on_the_way(self, replies: Iterator[Message]) -> Iterator[Message]:
        for reply in replies:
            self._see(reply)
            yield reply

    def _see(self, reply: Message | Folded) -> None:
        if isinstance(reply, Message) and reply.has_error():
            self.count += 1
            self.first = self.first or " ".join(str(reply.error.reason).split())
        else:
            self.successes += 1

    def check(self, server_round: int) -> None:
        """Raise EngineError where the round was one lost round too many; then begin the next one."""
        if self.successes:
            self.lost_rounds = 0
        elif self.count:
            self.lost_rounds += 1
            if self.lost_rounds >= _MOST_LOST:
                raise EngineError(
                    f"round {server_round}: all {self.count} clients failed; first: {self.first}"
                )
        self._begin_round()


def _in_words(record: RoundRecord) -> str:
    accuracy = "not evaluated" if record.accuracy is None else f"accuracy {record.accuracy:.4f}"
    return f"{accuracy}, {record.arrived} of {record.cohort} clients, {record.uplink_bytes:,} bytes up"
