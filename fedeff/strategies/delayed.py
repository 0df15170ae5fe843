"""Delayed, temporally sparse averaging: clients train on while their updates and the means travel.

Zhu, Lu, Lin and Han, "Distributed Training Across the World" (DTS, 2019), and Zhu, Lin, Lu, Lin and
Han, "Delayed Gradient Averaging: Tolerate the Communication Latency in Federated Learning" (DGA,
NeurIPS 2021). Temporal sparsity is the number of local steps in a period.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.core.lists import NO_ROUND, listed
from fedeff.strategies.asynchronous import AsynchronousAvg, OpenRound
from fedeff.strategies.displacement import added, mean_displacement, moved, needs_full, total_of
from fedeff.strategies.epochs import Epoch, Task
from fedeff.strategies.fedavg import FedAvgOptions, at_least
from fedeff.strategies.sessions import cycle_name
from fedeff.strategies.under_way import Sent
from fedeff.strategies.weighted_sum import metric_means

__all__ = ["DelayedAvg"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_log = logging.getLogger(__name__)


class DelayedAvg(AsynchronousAvg[Task]):
    """FedAvg whose mean arrives `delay` periods late, so that nobody waits for messages to travel.

    A round sends its cohort one period of local training (the client's `local-steps`) and then waits for
    the replies of the round `delay` rounds ago only: `delay + 1` periods of a client are under way. A
    client answers with its displacement `Delta_t` and trains on from where it stands; once the weighted
    mean of that period is known it comes down with the next message, and the client does
    `w += mean_t - Delta_t`. So a client's weights are always
    `w_0 + sum of the means it has had + sum of its own displacements whose means it has not had`, and
    the model here is `w_0 + sum of means`. `delay=0` is FedAvg up to rounding.

    With equal periods a round lasts `max(K t_c, S/B, (K t_c + 2 L + S/B) / (delay + 1))`: K local steps of
    t_c seconds, latency L one way, S bytes down and up over B bytes a second. What is late is also stale:
    with many local steps, or clients whose data differ much, keep `delay` small. The last `delay` periods
    of a run are not in its model.

    A client of which a period is under way gets all means that it is owed, its own periods or not, as one
    correction; one of which none is gets the whole model, which costs the same and comes to the same. So
    does a client after a gap: it answered with an error or that it needs the full model, or its reply was
    missing when its period was due; what it then still sends of earlier periods counts. With it begins a
    new epoch of that client (`cycle`), in which its periods are counted from 0 (`cycle-round`). Clients
    must keep their state between messages and be asked in order, as `fedeff.clients` and the engines of
    `fedeff.simulation` do; Flower's own engine may run two messages of a client at once, whereupon the
    later one is answered with need-full.

    `lost` lists the nodes whose replies were missing when their period was due: the wait for them ended
    by a timeout. A reply that comes later is refused, and a client that leaves `2 * (delay + 1)` messages
    unanswered rests until it answers one; then it begins anew, too.

    A checkpoint holds nothing of what is under way: a resumed run begins with whole models and counts the
    displacements that travelled as lost. That is a valid run but not, bit for bit, the one that was
    interrupted (`resumes_exactly`).

    `cohort` and the rest of `options` are those of `FedAvg`, but for `fold`, which is refused, since replies
    of several rounds arrive together.
    """

    _epochs: dict[int, Epoch]  # by node, of those with a period under way
    _arrived: dict[int, list[Message]]  # by period, before its mean is due
    _means: dict[int, dict[str, NDArray]]  # by period, those that somebody may be owed

    def __init__(
        self,
        *,
        delay: int = 1,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        at_least("delay", delay, 0)
        super().__init__(**options)
        self.delay = delay
        self.window = delay + 1
        self.resumes_exactly = delay == 0

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info("means arrive %d periods late", self.delay)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The next period's messages, to a seeded draw of clients in partition order."""
        opened, settings = self.open_round(server_round, arrays, config)
        settings["keep-sent"] = self.delay > 0
        # A client of which no period is under way begins a new epoch: the whole model costs no more.
        horizon = server_round - 1 - self.delay
        self._epochs = {node: epoch for node, epoch in self._epochs.items() if epoch.period > horizon}
        contents: dict[tuple[int, ...], RecordDict] = {}
        owed: dict[int, ArrayRecord] = {}
        messages = []
        for node in self.rested(self._draw(grid, self.cohort, server_round, "cohort")):
            epoch = self._epochs.setdefault(node, Epoch(cycle_name(self.session, server_round)))
            task = epoch.next_task(server_round, horizon)
            kind = (task.cycle, task.index, task.since or 0, *task.corrects)
            if kind not in contents:
                contents[kind] = self._content(task, opened, settings, owed)
            messages.append(self.message(contents[kind], node, task, opened))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The full model with the mean that is due in this round; as it was where there is none.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        opened = self.close_round(server_round)
        due = server_round - self.delay
        self._receive(replies)
        self.give_up(self.awaits(server_round))
        total = total_of(self._arrived.pop(due, []), opened.fold)
        self.refused = (*self.refused, *total.refused)
        self.log_round(server_round, total)
        self.synchronised = ()
        if not total.weight > 0:
            return opened.model, None
        mean = mean_displacement(total, opened.fold.layout)
        self._means[due] = mean
        self._means = {period: one for period, one in self._means.items() if period > due - self.delay}
        self.synchronised = tuple(group_layers(mean))
        model = encode_record(moved(decode_record(opened.model), mean))
        return model, MetricRecord({**metric_means(total)})

    def model_replaced(self) -> None:
        """Each client's next period begins an epoch; means that are owed are dropped."""
        super().model_replaced()
        self._epochs, self._arrived, self._means = {}, {}, {}

    def forget(self) -> None:
        """Give up every period that is under way: each client's next one begins an epoch."""
        super().forget()
        self._epochs, self._arrived, self._means = {}, {}, {}

    def awaits(self, server_round: int) -> Callable[[Task], bool]:
        """The period that is due in this round, and any before it."""
        due = server_round - self.delay
        return lambda task: task.period <= due

    def on_gap(self, sent: Sent[Task]) -> None:
        """The client's epoch ends, if it is still in the one of that message."""
        epoch = self._epochs.get(sent.node_id)
        if epoch is not None and epoch.cycle == sent.note.cycle:
            del self._epochs[sent.node_id]

    def _content(
        self,
        task: Task,
        opened: OpenRound,
        settings: Mapping[str, ConfigRecordValues],
        owed: dict[int, ArrayRecord],
    ) -> RecordDict:
        """What the message of a task holds; `owed` are corrections already made, by `task.since`."""
        config: dict[str, ConfigRecordValues] = {
            **settings,
            "cycle": task.cycle,
            "cycle-round": task.index,
        }
        if task.since is None:
            return RecordDict({"arrays": opened.model, "config": ConfigRecord(config)})
        content = RecordDict({"arrays": ArrayRecord()})
        # The first mean that the epoch's last message did not bring, and the newest there is.
        first, horizon = task.since - self.delay, task.period - 1 - self.delay
        means = [self._means[period] for period in range(first, horizon + 1) if period in self._means]
        if means or task.corrects:
            if task.since not in owed:
                owed[task.since] = encode_record(added(means, opened.fold.layout))
            content["correction"] = owed[task.since]
            config["corrects"] = listed(task.corrects, NO_ROUND)
        content["config"] = ConfigRecord(config)
        return content

    def _receive(self, replies: Iterable[Message]) -> None:
        """Put displacements by their periods; who needs the full model has lost its epoch."""
        need_full = []
        for sent, reply in self.sort_out(replies):
            if needs_full(reply):
                need_full.append(sent.node_id)
                self.on_gap(sent)
            else:
                self._arrived.setdefault(sent.note.period, []).append(reply)
        self.need_full = tuple(need_full)
