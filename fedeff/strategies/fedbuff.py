"""FedBuff: the server steps whenever a buffer of updates has come in, and nobody waits for anybody.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated Learning with Buffered Asynchronous
Aggregation", AISTATS 2022, arXiv:2106.06639, algorithm 1 and its staleness scaling.
"""

import logging
import math
from collections.abc import Iterable
from typing import Unpack

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.strategies.asynchronous import AsynchronousAvg, OpenRound
from fedeff.strategies.cohorts import connected_nodes, draw_cohort
from fedeff.strategies.displacement import mean_displacement, moved, total_of
from fedeff.strategies.fedavg import FedAvgOptions
from fedeff.strategies.weighted_sum import Refusal, Total, WeightedSum, metric_means, refusal_of

__all__ = ["FedBuff", "buffered_sum", "staleness_weight"]

_log = logging.getLogger(__name__)

Update = tuple[int, Message]  # a reply, and how many steps the server has taken since its client was asked


def staleness_weight(staleness: int) -> float:
    """`1 / sqrt(1 + staleness)`, the paper's polynomial damping.

    >>> staleness_weight(3)
    0.5
    """
    return 1.0 / math.sqrt(1.0 + staleness)


def buffered_sum(updates: Iterable[Update], fold: WeightedSum) -> Total:
    """The total of damped updates: `sums / weight` is `sum_i s_i n_i Delta_i / sum_i n_i`.

    Updates of one staleness are summed in partition order, then damped by `s = staleness_weight`; the
    weight stays that of all examples, so that staleness shortens the step instead of shifting it to the
    fresh clients. Metrics are means over examples, not damped.
    """
    groups: dict[int, list[Message]] = {}
    for staleness, reply in updates:
        groups.setdefault(staleness, []).append(reply)
    total = Total()
    for staleness in sorted(groups):
        group = total_of(groups[staleness], fold)
        for values in group.sums.values():
            values *= staleness_weight(staleness)
        total = fold.merge(total, group)
    return total


class FedBuff(AsynchronousAvg[int]):
    """Asynchronous averaging: `concurrency` clients always train, the server steps every `buffer` updates.

    A round is one step of the server. It sends the current model to as many idle clients as have
    finished, a seeded draw, and ends when the buffer is full:
    `w += server_learning_rate * sum_i s_i n_i Delta_i / sum_i n_i` over the first `buffer` updates to arrive
    (updates that came with them wait for the next round), where `Delta_i` is the client's
    displacement, `n_i` its examples and `s_i = 1 / sqrt(1 + staleness)`; staleness counts the steps that the
    server took since the client had its model. The paper divides by the number of updates: with equal
    examples that is the same. The sum is not divided by the damped weights, so stale updates make a
    shorter step. Where `buffer` equals `concurrency` nothing is ever stale and, at a rate of 1, each step is
    FedAvg's up to rounding.

    Fast clients report more often than slow ones, whose data then count less: with few clients and
    unlike data, expect a bias. Who arrives first is decided by the virtual clock where there is one;
    without, it is a matter of real time, and two runs differ.

    A reply that does not fit is refused; it has filled a place in the buffer. A client that fails is
    replaced in the next round. Where a wait ends before the buffer is full (Grid's timeout), all that
    are under way are given up, replaced, and listed in `lost`; updates that are there stay for the next
    round and the model stays as it is. A client that was given up twice without an answer rests until it
    gives one. `max_staleness` refuses older updates, and gives clients up that
    could only bring such; without a timeout on the Grid it helps only while at least `buffer` others answer.

    A checkpoint holds nothing of what is under way or waits in the buffer: a resumed run draws its
    clients anew, a valid run but not, bit for bit, the one that was interrupted (`resumes_exactly`).

    The rest of `options` are those of `FedAvg`, but for `cohort`, which is `concurrency` here, and `fold`:
    both are refused.
    """

    def __init__(
        self,
        *,
        concurrency: int = 100,
        buffer: int = 10,
        server_learning_rate: float = 1.0,
        max_staleness: int | None = None,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        if "cohort" in options:
            raise ConfigError(f"cohort is {options['cohort']}; FedBuff calls it concurrency, give that alone")
        options["cohort"] = concurrency
        super().__init__(**options)
        if not 1 <= buffer <= concurrency:
            raise ConfigError(
                f"buffer is {buffer}, expected 1 to {concurrency}, the clients under way (concurrency)"
            )
        if not 0 < server_learning_rate < math.inf:
            raise ConfigError(f"server_learning_rate is {server_learning_rate}, expected a positive number")
        if max_staleness is not None and max_staleness < 0:
            raise ConfigError(f"max_staleness is {max_staleness}, expected 0 or more steps, or None")
        self.concurrency = concurrency
        self.buffer = buffer
        self.server_learning_rate = server_learning_rate
        self.max_staleness = max_staleness

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info(
            "%d clients always under way, a step of %g every %d updates",
            *(self.concurrency, self.server_learning_rate, self.buffer),
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model to a seeded draw of idle clients, as many as are not under way."""
        opened, settings = self.open_round(server_round, arrays, config)
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(settings)})
        nodes = self._draw_idle(grid, server_round)
        return [self.message(content, node, self._steps, opened) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The full model after a step with the buffer; as it was where the buffer is not full.

        The metrics are means over examples, and `staleness`, the mean over updates.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        opened = self.close_round(server_round)
        self._waiting += [(sent.note, reply) for sent, reply in self.sort_out(replies)]
        updates = self._take_buffer()
        fresh = [(staleness, reply) for staleness, reply in updates if not self._too_stale(staleness)]
        total = buffered_sum(fresh, opened.fold)
        stepped = total.weight > 0
        self._steps += stepped
        timed_out = not updates
        self.give_up(lambda steps: timed_out or self._too_stale(self._steps - steps))
        self.refused = (*self.refused, *self._refusals(updates), *total.refused)
        self.log_round(server_round, total)
        self.synchronised = ()
        if not stepped:
            return opened.model, None
        mean = mean_displacement(total, opened.fold.layout)
        self.synchronised = tuple(group_layers(mean))
        model = encode_record(moved(decode_record(opened.model), mean, self.server_learning_rate))
        staleness = sum(staleness for staleness, _ in fresh) / len(fresh)
        return model, MetricRecord({**metric_means(total), "staleness": staleness})

    def model_replaced(self) -> None:
        """Empty the buffer, too."""
        super().model_replaced()
        self._waiting.clear()

    def forget(self) -> None:
        """Give up every client that is under way, and empty the buffer."""
        super().forget()
        self._begun = False  # whether a first cohort was drawn
        self._waiting: list[tuple[int, Message]] = []  # updates, with the steps when they were asked for
        self._steps = 0  # of the server

    def has_enough(self, opened: OpenRound) -> bool:
        """Whether the buffer is full, or nobody is left who could fill it."""
        return len(self._waiting) + opened.usable >= self.buffer or self.has_all(opened)

    def _draw_idle(self, grid: Grid, server_round: int) -> list[int]:
        # Later rounds go on with those that are left.
        needed = max(self.min_available_nodes, 1 if self._begun else self.concurrency)
        self._begun = True
        nodes = connected_nodes(grid, needed, self.wait_for_nodes_s)
        busy = {sent.node_id for sent in self._under_way}
        idle = self.rested(node for node in nodes if node not in busy)
        wanted = min(self.concurrency - len(self._under_way), len(idle))
        return draw_cohort(idle, wanted, seed=self.seed, server_round=server_round, purpose="cohort")

    def _take_buffer(self) -> list[Update]:
        """The updates of the next step, with their staleness; none where the buffer is not full."""
        if len(self._waiting) < self.buffer:
            return []
        taken, self._waiting = self._waiting[: self.buffer], self._waiting[self.buffer :]
        return [(self._steps - steps, reply) for steps, reply in taken]

    def _refusals(self, updates: Iterable[Update]) -> list[Refusal]:
        """Those that are staler than they may be."""
        return [
            refusal_of(reply, f"{staleness} steps stale, more than max_staleness = {self.max_staleness}")
            for staleness, reply in updates
            if self._too_stale(staleness)
        ]

    def _too_stale(self, staleness: int) -> bool:
        return self.max_staleness is not None and staleness > self.max_staleness
