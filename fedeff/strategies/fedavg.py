"""Federated averaging (McMahan et al., arXiv:1602.05629, algorithm 1) as a Flower strategy."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedeff.core.errors import ConfigError, EngineError, ResumeError, unknown_name
from fedeff.core.layers import encode_record, group_layers, subset
from fedeff.core.lists import NO_PART, listed
from fedeff.grids.cohort import Cohort, Folded
from fedeff.strategies.cohorts import connected_nodes, draw_cohort
from fedeff.strategies.sessions import new_session
from fedeff.strategies.weighted_sum import (
    Refusal,
    Total,
    WeightedSum,
    in_partition_order,
    layout_of,
    mean,
    metric_means,
    refusal_of,
)

__all__ = ["Asked", "FedAvg", "FedAvgOptions", "FoldPlace", "at_least"]

FoldPlace = Literal["server", "workers"]

_log = logging.getLogger(__name__)
_SHOWN = 5  # refusals and failures named in the log for one round


class FedAvgOptions(TypedDict, total=False):
    """The options that every strategy built on `FedAvg` takes beside its own, checked by name and type."""

    cohort: int | None
    evaluate_clients: int | None
    fold: FoldPlace
    seed: int
    weighted_by: str
    train_config: Mapping[str, ConfigRecordValues] | None
    min_available_nodes: int
    wait_for_nodes_s: float


@dataclass(frozen=True)
class Asked:
    """What the last `configure_train` asked for."""

    server_round: int
    model: ArrayRecord
    fold: WeightedSum


class FedAvg(Strategy):
    """The mean of the clients' models, weighted by their examples, summed reproducibly.

    Sums are in float64 and in partition order, so the same replies give the same bits in every
    runtime. A reply that does not fit (other arrays or shapes, NaN, no examples) is left out,
    logged and listed in `refused`; where none is left the model stays as it was.

    `cohort` and `evaluate_clients` are the numbers of clients that train and evaluate in a round,
    None for all. A round waits up to `wait_for_nodes_s` until these and `min_available_nodes` are
    connected; set the latter to the number of clients where they connect one by one, since the draw
    is reproducible only over the same clients. Rounds after the first go on with those that are left.
    `fold="workers"` lets engines of fedeff sum each block of clients where it ran: fewer bytes between
    processes, the same mean up to rounding.
    `train_config` is sent to clients with every round. FedProx is `train_config={"prox-mu": 0.1}`.

    After a round `refused` and `failed` list the train replies that were left out and the clients
    that answered with an error, `need_full` the nodes that asked for the whole model because they had
    lost their part of it, `synchronised` the layers whose mean was taken, `estimated` the clients whose
    updates were not there and were estimated (here none), `measures` what a strategy measured of the round
    (here nothing); `refused_evaluations` lists what the federated evaluation left out.

    >>> FedAvg(cohort=100, evaluate_clients=20).start(grid, arrays)  # doctest: +SKIP
    """

    resumes_exactly = True  # whether a run cut after any round goes on to the same bits

    def __init__(
        self,
        *,
        cohort: int | None = None,
        evaluate_clients: int | None = 0,
        fold: FoldPlace = "server",
        seed: int = 0,
        weighted_by: str = "num-examples",
        train_config: Mapping[str, ConfigRecordValues] | None = None,
        min_available_nodes: int = 1,
        wait_for_nodes_s: float = 10.0,
    ) -> None:
        at_least("cohort", cohort, 1)
        at_least("evaluate_clients", evaluate_clients, 0)
        at_least("min_available_nodes", min_available_nodes, 1)
        at_least("seed", seed, 0)
        at_least("wait_for_nodes_s", wait_for_nodes_s, 0)
        if fold not in ("server", "workers"):
            raise unknown_name("fold", fold, ("server", "workers"))
        self.cohort = cohort
        self.evaluate_clients = evaluate_clients
        self.fold = fold
        self.seed = seed
        self.weighted_by = weighted_by
        self.train_config = dict(train_config or {})
        self.min_available_nodes = min_available_nodes
        self.wait_for_nodes_s = wait_for_nodes_s
        self.refused: tuple[Refusal, ...] = ()
        self.failed: tuple[Refusal, ...] = ()
        self.need_full: tuple[int, ...] = ()
        self.synchronised: tuple[str, ...] = ()
        self.estimated: tuple[int, ...] = ()  # partitions, nodes where they are not known
        self.measures: Mapping[str, float] = {}
        self.refused_evaluations: tuple[Refusal, ...] = ()
        self.session = 0  # of the start under way (see `sessions`)
        self.last_round: int | None = None  # of the run under way, where it is known
        self._asked: Asked | None = None
        self._drew = False  # whether nodes were waited for

    def summary(self) -> None:
        """Log what the strategy will do."""
        _log.info(
            "%s: cohort %s, evaluated by %s clients, replies summed on the %s, seed %d",
            type(self).__name__,
            "all" if self.cohort is None else self.cohort,
            "all" if self.evaluate_clients is None else self.evaluate_clients,
            self.fold,
            self.seed,
        )

    def check_clients(self, clients: int) -> None:
        """Raise ConfigError where a run of so many clients in all is not possible: here any number is."""

    def over(self, grid: Grid) -> Grid:
        """The Grid that the rounds go through: here the one given. Asynchronous strategies wrap it."""
        return grid

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Flower's round loop, over the Grid that the strategy needs."""
        self.session, self.last_round = new_session(), num_rounds
        return super().start(
            self.over(grid), initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn
        )

    def due_keys(self, server_round: int, arrays: ArrayRecord) -> tuple[str, ...]:
        """The arrays that clients send back in this round: here all of them."""
        return tuple(arrays)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages, to a seeded draw of clients in partition order."""
        due = self.due_keys(server_round, arrays)
        settings = {**config, **self.train_config, "server-round": server_round}
        if len(due) < len(arrays):
            settings["layers-due"] = listed(due, NO_PART)
        fold = WeightedSum(layout_of(subset(arrays, due)), self.weighted_by)
        self._asked = Asked(server_round, arrays, fold)
        nodes = self._draw(grid, self.cohort, server_round, "cohort")
        return self._messages(nodes, "train", arrays, settings, fold)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new full model and the metrics' weighted means; None where no reply was valid.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        asked, total = self._taken(server_round, replies)
        if not total.weight > 0:
            return None, None
        self.synchronised = tuple(group_layers(spec.key for spec in asked.fold.layout))
        means = encode_record(mean(total, asked.fold.layout))
        return self.merged(asked.model, means), MetricRecord({**metric_means(total)})

    def merged(self, model: ArrayRecord, means: ArrayRecord) -> ArrayRecord:
        """The next model from the last one and the means of the arrays that were due: here the means."""
        return means

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of a federated evaluation; none where `evaluate_clients` is 0."""
        if self.evaluate_clients == 0:
            return []
        nodes = self._draw(grid, self.evaluate_clients, server_round, "evaluation cohort")
        settings = {**config, "server-round": server_round}
        return self._messages(nodes, "evaluate", arrays, settings, WeightedSum((), self.weighted_by))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The metrics' means weighted by examples, None where no reply was valid."""
        total, failed = _sum(WeightedSum((), self.weighted_by), replies)
        self.refused_evaluations = tuple(total.refused) + failed
        if total.replies or self.refused_evaluations:
            _log_round("evaluate", server_round, total, failed)
        return MetricRecord({**metric_means(total)}) if total.weight > 0 else None

    def settled_since(self, server_round: int) -> int | None:
        """The first round of those whose common result the model of this round is: here this round itself.

        None while it mixes parts of different age, which is not worth an evaluation.
        """
        return server_round

    def model_replaced(self) -> None:
        """Called between rounds where the next one's model has other arrays: here nothing is kept of them.

        Strategies that keep something of the model's arrays, or of what clients have of it, forget it.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold beside the model to go on: here nothing."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if the state is another strategy's.
        """
        if state:
            raise ResumeError(
                f"a checkpoint holds strategy state {sorted(state)}, but {type(self).__name__} keeps none; "
                "resume with the strategy that the run was started with"
            )

    def _taken(self, server_round: int, replies: Iterable[Message]) -> tuple["Asked", Total]:
        """What was asked for in the round, and the total of its replies; says who was left out."""
        asked = self._asked
        if asked is None or asked.server_round != server_round:
            raise EngineError(
                f"replies of round {server_round} to aggregate, but configure_train was "
                f"{'never called' if asked is None else f'last called for round {asked.server_round}'}; "
                "call configure_train for the round first"
            )
        total, self.failed = _sum(asked.fold, replies)
        self.refused, self.need_full = tuple(total.refused), tuple(total.need_full)
        self.synchronised = ()
        _log_round("train", server_round, total, self.failed)
        return asked, total

    def _draw(self, grid: Grid, size: int | None, server_round: int, purpose: str) -> list[int]:
        """A seeded draw of `size` nodes, None for all; after the first round those that are left will do."""
        first, needed = server_round <= 1, max(self.min_available_nodes, size or 1)
        # A node that has died is waited for once at most, when a run begins or goes on after a stop.
        waited_for = needed if first or not self._drew else 1
        nodes = connected_nodes(grid, waited_for, self.wait_for_nodes_s, enough=None if first else 1)
        self._drew = True
        wanted = len(nodes) if size is None else min(size, len(nodes))
        if wanted < (size or 0):
            _log.warning("round %d: a %s of %d, since no more are connected", server_round, purpose, wanted)
        return draw_cohort(nodes, wanted, seed=self.seed, server_round=server_round, purpose=purpose)

    def _messages(
        self,
        nodes: list[int],
        message_type: str,
        arrays: ArrayRecord,
        settings: dict[str, ConfigRecordValues],
        fold: WeightedSum,
    ) -> Cohort:
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(settings)})
        messages = [Message(content=content, dst_node_id=node, message_type=message_type) for node in nodes]
        return Cohort(messages, fold if self.fold == "workers" else None)


def _sum(fold: WeightedSum, replies: Iterable[Message | Folded]) -> tuple[Total, tuple[Refusal, ...]]:
    """All replies in partition order as one total, and the clients that failed."""
    total: Total | None = None
    failed: list[Refusal] = []
    for reply in in_partition_order(replies):
        if isinstance(reply, Folded):
            total = reply.total if total is None else fold.merge(total, reply.total)
        elif reply.has_error():
            failed.append(refusal_of(reply, reply.error.reason or "no reason given"))
        else:
            total = fold.add(total, reply)
    return fold.empty() if total is None else total, tuple(failed)


def _log_round(kind: str, server_round: int, total: Total, failed: tuple[Refusal, ...]) -> None:
    left_out = [*total.refused, *failed]
    _log.info(
        "round %d, %s: %d replies averaged, %d refused, %d failed",
        *(server_round, kind, total.replies, len(total.refused), len(failed)),
    )
    if total.need_full:
        _log.info("round %d, %s: %d clients need the full model", server_round, kind, len(total.need_full))
    for one in left_out[:_SHOWN]:
        who = f"node {one.node_id}" if one.partition_id is None else f"partition {one.partition_id}"
        _log.warning("round %d, %s: %s left out: %s", server_round, kind, who, one.reason)
    if len(left_out) > _SHOWN:
        _log.warning("round %d, %s: %d more left out", server_round, kind, len(left_out) - _SHOWN)


def at_least(name: str, value: float | None, least: int) -> None:
    """Raise ConfigError for a value below `least` and for NaN; None passes."""
    if value is not None and not value >= least:
        raise ConfigError(f"{name} is {value}, expected {least} or more")
