"""Averaging with a deadline: nobody waits for slow clients, and what they would send may be estimated."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError, ReplyError, unknown_name
from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.grids.cohort import Cohort
from fedeff.grids.deadline import DeadlineGrid
from fedeff.strategies.asynchronous import AsynchronousAvg, OpenRound
from fedeff.strategies.displacement import total_of
from fedeff.strategies.fedavg import FedAvgOptions, at_least
from fedeff.strategies.missing import ESTIMATORS, Estimator, History, Layers, Mean, Past, Situation, Vector
from fedeff.strategies.under_way import Sent
from fedeff.strategies.weighted_sum import (
    Total,
    mean,
    metric_means,
    partition_of,
    read_update,
    refusal_of,
)

__all__ = ["DeadlineAveraging"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Answer = tuple[Sent[int], Message]

_log = logging.getLogger(__name__)


class DeadlineAveraging(AsynchronousAvg[int]):
    """FedAvg over the replies that come by a deadline, and estimates of those that do not.

    A round sends the model to the clients of its cohort that do not work at an earlier message still, and
    ends `deadline_s` seconds later, virtual ones where there is a clock; earlier once all have answered, or
    the share `quorum` of them; later while fewer than `fewest_replies` have (`fedeff.grids.DeadlineGrid`).
    The cohort is a draw among all connected clients, busy ones too: who is slow is drawn as often as others.
    The new model is the mean over the replies, and over an estimate of the model of each client that is
    missing (late, failed or refused), weighted by its examples. What comes late is never averaged itself: it
    becomes the last known update of its client.

    `missing` says what stands in for a client of whom some update is known: "drop" nothing, "stale" its last
    update (MIFA, arXiv:2106.04159), "fedvarp" (arXiv:2207.14130), "drift" the last one and how the others
    moved on since, "ridge" and "gram" what a model learned on the server makes of these, or an `Estimator` of
    one's own (see `fedeff.strategies.missing`). A client that was never heard is left out. Each estimate is
    recorded: `estimated` lists the clients of the last round. With nobody missing every one is FedAvg, bit
    for bit. In a round in which nobody is in time the model stays as it is.

    The server keeps one update in float32 for each client that was heard within `history_rounds`, but for
    "drop"; a message that old is given up and its client asked again. It must see each client's own update:
    not with secure aggregation. A checkpoint holds none of it: a resumed run begins with nobody known, a
    valid run but not, bit for bit, the one that was interrupted (`resumes_exactly`).

    `cohort` and the rest of `options` are those of `FedAvg`, but for `fold`, which is refused.
    """

    reply_with = "weights"  # a mean of models has FedAvg's bits; one of displacements has not

    _cohort: tuple[int, ...]
    _partitions: dict[int, int]  # by node

    def __init__(
        self,
        *,
        missing: str | Estimator = "drift",
        deadline_s: float = 60.0,
        quorum: float = 1.0,
        fewest_replies: int = 1,
        history_rounds: int = 32,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        if isinstance(missing, str) and missing not in ESTIMATORS:
            raise unknown_name("way with missing clients", missing, ESTIMATORS)
        if not deadline_s > 0:
            raise ConfigError(f"deadline_s is {deadline_s}, expected a positive number of seconds")
        if not 0 < quorum <= 1:
            raise ConfigError(f"quorum is {quorum}, expected a share of the clients in (0, 1]")
        at_least("fewest_replies", fewest_replies, 0)
        at_least("history_rounds", history_rounds, 1)
        self.missing = missing
        self.deadline_s = deadline_s
        self.quorum = quorum
        self.fewest_replies = fewest_replies
        self.history_rounds = history_rounds
        super().__init__(**options)

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info("rounds end after %g s; missing clients: %s", self.deadline_s, self.missing)

    def over(self, grid: Grid) -> Grid:
        """A Grid whose rounds end at the deadline; a new run begins with nobody known."""
        self.forget()
        return DeadlineGrid(
            grid,
            self.deadline_s,
            at_least=self.fewest_replies,
            quorum=self.quorum,
            late="keep",
            withhold=False,  # who is under way is known here
        )

    def forget(self) -> None:
        """Give up what is under way, and forget every update."""
        super().forget()
        self._cohort, self._partitions = (), {}
        self._history = History(self.history_rounds)
        self._estimator = self._new_estimator()
        self.estimated = ()

    def model_replaced(self) -> None:
        """Forget every update: those to come are of other arrays."""
        super().model_replaced()
        self._history = History(self.history_rounds)
        self._estimator = self._new_estimator()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model to those of a seeded draw of clients who are idle, in partition order."""
        opened, settings = self.open_round(server_round, arrays, config)
        self.give_up(lambda asked: server_round - asked >= self.history_rounds)
        self._cohort = tuple(self._draw(grid, self.cohort, server_round, "cohort"))
        busy = {sent.node_id for sent in self._under_way}
        idle = self.rested(node for node in self._cohort if node not in busy)
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(settings)})
        # A Cohort also where it is empty: a round that sends nothing is a round.
        return Cohort([self.message(content, node, server_round, opened) for node in idle])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the models that came in time and of the estimated ones; None where none came in time.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        opened = self.close_round(server_round)
        answers = list(self.sort_out(replies))
        in_time = [reply for sent, reply in answers if sent.note == server_round]
        total = total_of(in_time, opened.fold)
        self.refused = (*self.refused, *total.refused)
        metrics = MetricRecord({**metric_means(total)})
        self.synchronised, self.estimated = (), ()
        if self._estimator is not None:
            self._estimate(self._estimator, opened, answers, total)
        self._log(server_round, total, len(answers) - len(in_time))
        if not total.weight > 0:
            return None, None
        self.synchronised = tuple(group_layers(spec.key for spec in opened.fold.layout))
        return encode_record(mean(total, opened.fold.layout)), metrics

    def _new_estimator(self) -> Estimator | None:
        if not isinstance(self.missing, str):
            return self.missing
        return ESTIMATORS[self.missing](self.seed)

    def _estimate(self, estimator: Estimator, opened: OpenRound, answers: list[Answer], total: Total) -> None:
        """Remember what came; add a model for each client that is missing to the total."""
        layers = Layers.of(opened.fold.layout)
        self._history.models[opened.server_round] = layers.vector(decode_record(opened.model))
        came = self._updates(layers, opened, [a for a in answers if a[0].note == opened.server_round])
        late = self._updates(layers, opened, [a for a in answers if a[0].note != opened.server_round])
        stale = {node: self._history.latest[node] for node in late if node in self._history.latest}
        self._history.keep(late)
        if came:
            situation = self._situation(layers, opened, came, late, stale, total)
            estimator.learn(situation)
            self._add(estimator.estimate(situation), layers, opened, total)
            self._history.means[opened.server_round] = situation.mean
        self._history.keep(came)
        under_way = {sent.note for sent in self._under_way}
        self._history.forget(opened.server_round, under_way | estimator.needed_rounds())

    def _updates(self, layers: Layers, opened: OpenRound, answers: list[Answer]) -> dict[int, Past]:
        """What each of these clients changed of the model it was sent, by node; refuses late ones unfit."""
        found = {}
        for sent, reply in answers:
            in_time = sent.note == opened.server_round
            try:
                update = read_update(reply, opened.fold.layout, self.weighted_by)
            except ReplyError as refusal:
                if not in_time:  # the others are refused already
                    self.refused = (*self.refused, refusal_of(reply, str(refusal)))
                continue
            moved = layers.vector(update.arrays) - self._history.models[sent.note]
            found[sent.node_id] = Past(sent.note, moved, update.weight, in_time)
            if (partition := partition_of(reply)) is not None:
                self._partitions[sent.node_id] = partition
        return found

    def _situation(
        self,
        layers: Layers,
        opened: OpenRound,
        came: Mapping[int, Past],
        late: Mapping[int, Past],
        stale: Mapping[int, Past],
        total: Total,
    ) -> Situation:
        model = decode_record(opened.model)
        moved = {key: values / total.weight - model[key] for key, values in total.sums.items()}
        absent = [node for node in self._cohort if node not in came]
        asked = {sent.node_id: sent.note for sent in self._under_way}
        latest = self._history.latest
        return Situation(
            opened.server_round,
            layers,
            self._history.models[opened.server_round],
            Mean(layers.vector(moved), total.weight),
            came,
            tuple(node for node in absent if node in latest),
            self._history,
            late,
            stale,
            tuple(opened.server_round - asked[n] for n in absent if n in asked and n not in latest),
        )

    def _add(self, estimates: Mapping[int, Vector], layers: Layers, opened: OpenRound, total: Total) -> None:
        """Add the models that estimates lead to, each with its client's weight."""
        model = decode_record(opened.model)
        for node, estimate in estimates.items():
            weight = self._history.latest[node].weight
            for key, values in layers.arrays(estimate).items():
                total.sums[key] += weight * (model[key].astype(np.float64) + values)
            total.weight += weight
        self.estimated = tuple(sorted(self._partitions.get(node, node) for node in estimates))

    def _log(self, server_round: int, total: Total, late: int) -> None:
        _log.info(
            "round %d: %d in time, %d estimated, %d late, %d refused, %d failed, %d under way, %d resting",
            *(server_round, total.replies, len(self.estimated), late, len(self.refused), len(self.failed)),
            *(len(self._under_way), len(self.resting)),
        )
