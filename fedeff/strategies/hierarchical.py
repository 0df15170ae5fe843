"""Hierarchical local SGD: averaging inside groups in every round, across groups now and then.

Lee et al., IEEE BigData 2020. Members of a group share fast links; only what is averaged across groups
crosses the slow ones.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record, group_layers, merge
from fedeff.grids.cohort import Cohort, Folded
from fedeff.strategies.fedavg import FedAvg, FedAvgOptions, at_least
from fedeff.strategies.weighted_sum import (
    Refusal,
    Total,
    WeightedSum,
    in_partition_order,
    layout_of,
    mean,
    metric_means,
    partition_of,
    refusal_of,
)

__all__ = [
    "GroupedSum",
    "GroupedTotal",
    "HierarchicalSGD",
    "Topology",
    "mean_of_groups",
    "words_flat",
    "words_sliced",
]

NDArray = np.ndarray[Any, np.dtype[Any]]

_log = logging.getLogger(__name__)
_SPAN = re.compile(r"(\d+)(?:-(\d+))?:(\d+)")  # "4:1" or "0-3:0"
_WEIGHTS = "group-weights"
_PARTITIONS = "partitions-of-nodes"  # (node, partition) a row


@dataclass(frozen=True)
class Topology:
    """Which group each client is in: `of_partition` where it is given, else partition modulo `groups`.

    >>> [Topology.read("3").group_of(p) for p in range(5)]
    [0, 1, 2, 0, 1]
    >>> [Topology.read("0-2:0,3-4:1").group_of(p) for p in range(5)]
    [0, 0, 0, 1, 1]
    """

    groups: int
    of_partition: Mapping[int, int] | None = None

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ConfigError(f"a topology of {self.groups} groups; expected 1 or more")
        used = None if self.of_partition is None else sorted(set(self.of_partition.values()))
        if used is not None and used != list(range(self.groups)):
            raise ConfigError(
                f"a topology of {self.groups} groups puts clients into groups {used}; "
                f"number the groups from 0 to {self.groups - 1}, each with a client"
            )

    def holds(self, partition: int) -> bool:
        """Whether the partition is in a group."""
        return self.of_partition is None or partition in self.of_partition

    @classmethod
    def read(cls, text: str) -> "Topology":
        """The topology that a setting names.

        A number of groups; or `partition:group` and `first-last:group` with commas or line breaks
        between them; or `file:PATH` of a text file with the same, where `#` begins a comment.

        Raises:
            ConfigError: if it is none of these, or a partition is in two groups.
        """
        if text.startswith("file:"):
            return cls._from_entries(_file_lines(Path(text.removeprefix("file:"))))
        if text.strip().isdecimal():
            return cls(int(text))
        return cls._from_entries(re.split(r"[,\n]", text))

    @classmethod
    def _from_entries(cls, entries: Iterable[str]) -> "Topology":
        groups: dict[int, int] = {}
        for entry in filter(None, (entry.strip() for entry in entries)):
            if (match := _SPAN.fullmatch(entry)) is None:
                raise ConfigError(
                    f"topology entry {entry!r} is neither partition:group nor first-last:group, "
                    "such as 0-3:0; or give the number of groups alone"
                )
            first, last, group = int(match[1]), int(match[2] or match[1]), int(match[3])
            if last < first or not groups.keys().isdisjoint(range(first, last + 1)):
                raise ConfigError(f"topology entry {entry!r} is empty or names a partition a second time")
            groups.update(dict.fromkeys(range(first, last + 1), group))
        if not groups:
            raise ConfigError(
                "the topology names no client; give a number of groups or entries such as 0-3:0"
            )
        return cls(1 + max(groups.values()), groups)

    def group_of(self, partition: int) -> int:
        """The group of a client.

        Raises:
            ConfigError: if the topology lists clients, but not this one.
        """
        if self.of_partition is None:
            return partition % self.groups
        if partition not in self.of_partition:
            raise ConfigError(
                f"client {partition} takes part, but is in no group of the topology; "
                f"add it (groups are 0 to {self.groups - 1})"
            )
        return self.of_partition[partition]


@dataclass
class GroupedTotal:
    """One running total for each group that has replies, and replies of nobody who was asked."""

    groups: dict[int, Total] = field(default_factory=dict)
    strangers: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True)
class GroupedSum:
    """A `Fold` that sums the replies of each group apart; `group_of` is by node id.

    With a `topology` the partition that a reply tells comes first: for rounds in which all groups were
    sent the same model, so that it makes no difference for which group a client was taken.
    """

    fold: WeightedSum
    group_of: Mapping[int, int]
    topology: Topology | None = None

    def add(self, total: GroupedTotal | None, reply: Message) -> GroupedTotal:
        """The total with one reply added to its group's, in place; None starts a new total."""
        total = GroupedTotal() if total is None else total
        group = self.group_of.get(reply.metadata.src_node_id)
        if group is None:
            total.strangers.append(refusal_of(reply, "this client was not asked in this round"))
            return total
        partition = partition_of(reply)
        if self.topology is not None and partition is not None and self.topology.holds(partition):
            group = self.topology.group_of(partition)
        total.groups[group] = self.fold.add(total.groups.get(group), reply)
        return total

    def merge(self, total: GroupedTotal, other: GroupedTotal) -> GroupedTotal:
        """The sum of two totals, group by group, in place of `total`; `other` is left as it is."""
        for group, one in other.groups.items():
            total.groups[group] = self.fold.merge(total.groups.get(group) or Total(), one)
        total.strangers.extend(other.strangers)
        return total


@dataclass(frozen=True)
class _Asked:
    """What the last `configure_train` asked for."""

    server_round: int
    models: tuple[ArrayRecord, ...]  # one for each group
    sums: GroupedSum


class HierarchicalSGD(FedAvg):
    """Local SGD in groups: the server keeps one model for each group and averages all every so often.

    In every round each group's model becomes the weighted mean of its clients' replies; with
    `train_config={"local-steps": 1}` and plain SGD that is synchronous SGD inside the group. After every
    `global_every`-th round all groups start again from the mean of their models, weighted by the examples
    that each has averaged since they last did. A group without a valid reply keeps its model.

    `aggregate_train` returns that same mean in every round. Between global rounds it is *no* client's
    model, only what the groups would hold if they averaged now: evaluate by it, and resume from it
    together with `state()`. `synchronised` names the layers in global rounds alone. With one group it is
    FedAvg bit for bit; with `global_every=1` it is FedAvg but for the rounding of the groups' models to
    their dtype: 1e-6 relative for float32, 1e-12 for float64.

    `topology` groups clients by partition: by the `partition-id` of a client's last reply to the server
    and, until there is one (or where workers sum the replies), by its place among the node ids, which in
    simulations of fedeff is the same. Elsewhere a client's first reply still counts in its own group where
    it answers a model that all groups share, as in round 1; between global rounds it counts in the group
    whose model it was sent. The cohort is drawn as FedAvg draws it, over all groups.

    Clients talk to the server alone here, so the bytes of a run are FedAvg's; `words_sliced` and `words_flat`
    say what members of groups that talk to each other would send.
    """

    def __init__(
        self,
        *,
        topology: Topology,
        global_every: int = 4,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(
            **options,
        )
        at_least("global_every", global_every, 1)
        self.topology = topology
        self.global_every = global_every
        self._models: tuple[ArrayRecord, ...] = ()  # empty where all groups hold the global model
        self._weights = [0.0] * topology.groups  # examples averaged since the last global round
        self._partitions: dict[int, int] = {}  # of nodes that have replied
        self._waiting: _Asked | None = None

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info("%d groups, averaged every %d rounds", self.topology.groups, self.global_every)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages in partition order, those of a group with one content in common."""
        chosen = self._draw(grid, self.cohort, server_round, "cohort")
        groups = self._groups_of(chosen, sorted({*grid.get_node_ids(), *chosen}))
        # In the order of `arrays`: what was restored has the order of its file.
        models = tuple(merge(arrays, own) for own in self._models) or (arrays,) * self.topology.groups
        settings = ConfigRecord({**config, **self.train_config, "server-round": server_round})
        contents = [RecordDict({"arrays": model, "config": settings}) for model in models]
        shared = None if self._models else self.topology
        sums = GroupedSum(WeightedSum(layout_of(arrays), self.weighted_by), groups, shared)
        self._waiting = _Asked(server_round, models, sums)
        messages = [
            Message(contents[groups[node]], dst_node_id=node, message_type="train") for node in chosen
        ]
        return Cohort(messages, sums if self.fold == "workers" else None)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the groups' models and the metrics' weighted means.

        None for the model where no group has averaged anything since the last global round.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        asked = self._waiting
        if asked is None or asked.server_round != server_round:
            raise EngineError(
                f"replies of round {server_round} to aggregate, which was not configured last; "
                "call configure_train for the round first"
            )
        total = self._summed(asked.sums, replies)
        models = list(asked.models)
        for group, own in total.groups.items():
            if own.weight > 0:
                models[group] = encode_record(mean(own, asked.sums.fold.layout))
                self._weights[group] += own.weight
        merged = mean_of_groups(models, self._weights)
        self._models, self.synchronised = tuple(models), ()
        if server_round % self.global_every == 0 and merged is not None:
            self._models, self.synchronised = (), tuple(group_layers(merged))
            self._weights = [0.0] * self.topology.groups
        return merged, self._metrics(asked.sums.fold, total)

    def model_replaced(self) -> None:
        """All groups go on from the model that is put in the place of theirs."""
        self._models, self._weights = (), [0.0] * self.topology.groups

    def state(self) -> dict[str, np.ndarray]:
        """The groups' models, where they differ from the global one, and the examples they stand for."""
        models = {
            f"group-{group}/{key}": values
            for group, model in enumerate(self._models)
            for key, values in decode_record(model).items()
        }
        told = np.array(sorted(self._partitions.items()), np.uint64).reshape(-1, 2)
        return {_WEIGHTS: np.array(self._weights), _PARTITIONS: told, **models}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if the state is another strategy's or of another number of groups.
        """
        weights, groups = state.get(_WEIGHTS, np.zeros(0)), range(self.topology.groups)
        models = [_under(state, f"group-{group}/") for group in groups]
        if _PARTITIONS not in state or len(weights) != len(groups) or sum(map(len, models)) != len(state) - 2:
            raise ResumeError(
                f"a checkpoint holds strategy state {sorted(state)}, expected that of {len(groups)} groups; "
                "resume with the strategy and topology that the run was started with"
            )
        self._partitions = {int(node): int(partition) for node, partition in state[_PARTITIONS]}
        self._weights = [float(weight) for weight in weights]
        self._models = tuple(encode_record(model) for model in models) if models[0] else ()

    def _groups_of(self, chosen: Sequence[int], nodes: Sequence[int]) -> dict[int, int]:
        """The group of each chosen node: by the partition it has told, else by its place among all nodes."""
        partitions = {node: place for place, node in enumerate(nodes)} | self._partitions
        return {node: self.topology.group_of(partitions[node]) for node in chosen}

    def _summed(self, sums: GroupedSum, replies: Iterable[Message | Folded]) -> GroupedTotal:
        """All replies in partition order; says who was left out."""
        total, failed = GroupedTotal(), []
        for reply in in_partition_order(replies):
            if isinstance(reply, Folded):
                total = sums.merge(total, reply.total)
            elif reply.has_error():
                failed.append(refusal_of(reply, reply.error.reason or "no reason given"))
            else:
                total = sums.add(total, reply)
                partition = partition_of(reply)
                if partition is not None and self.topology.holds(partition):
                    self._partitions[reply.metadata.src_node_id] = partition
        refused = [one for own in total.groups.values() for one in own.refused] + total.strangers
        self.refused, self.failed = tuple(refused), tuple(failed)
        self.need_full = tuple(node for own in total.groups.values() for node in own.need_full)
        _log.info(
            "%d of %d groups replied, %d replies refused, %d failed",
            *(len(total.groups), self.topology.groups, len(refused), len(failed)),
        )
        return total

    def _metrics(self, fold: WeightedSum, total: GroupedTotal) -> MetricRecord | None:
        every = Total()
        for own in total.groups.values():
            every = fold.merge(every, Total(own.weight, own.replies, metrics=own.metrics))
        return MetricRecord({**metric_means(every)}) if every.weight > 0 else None


def mean_of_groups(models: Sequence[ArrayRecord], weights: Sequence[float]) -> ArrayRecord | None:
    """The weighted mean of the models, in their dtypes; those of weight 0 do not count. None if all are.

    A running mean in float64: that of equal models, or of a single one, is that model bit for bit.
    """
    counted = [(decode_record(model), w) for model, w in zip(models, weights, strict=True) if w > 0]
    if not counted:
        return None
    (first, seen), *rest = counted
    means = {key: values.astype(np.float64) for key, values in first.items()}
    for arrays, weight in rest:
        seen += weight
        for key, values in arrays.items():
            means[key] += (weight / seen) * (values - means[key])
    return encode_record({key: _in_dtype(values, first[key].dtype) for key, values in means.items()})


def words_flat(parameters: int, workers: int) -> float:
    """Words that each of so many workers sends when all average a model by a ring all-reduce.

    >>> words_flat(1000, workers=4)
    1500.0
    """
    return 2 * (workers - 1) / workers * parameters


def words_sliced(parameters: int, groups: int, members: int) -> float:
    """Words that each member sends when groups of so many members average across groups in slices.

    Member `m` all-reduces the `m`-th of `members` slices with its counterparts in the other groups,
    `2 (G-1)/G * d/M`; then the members of a group gather the slices, `(M-1)/M * d` over the fast links.

    >>> words_sliced(1000, groups=2, members=2)
    1000.0
    """
    return words_flat(parameters, groups) / members + (members - 1) / members * parameters


def _under(state: Mapping[str, NDArray], prefix: str) -> dict[str, NDArray]:
    """The entries whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def _in_dtype(values: NDArray, dtype: np.dtype[Any]) -> NDArray:
    whole = values if dtype.kind == "f" else np.rint(values)
    return np.asarray(whole).astype(dtype)


def _file_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the topology file {path} cannot be read: {error}") from error
    return [entry for line in text.splitlines() for entry in line.partition("#")[0].split(",")]
