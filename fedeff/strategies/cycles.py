"""Cycles: a cohort that stays together for some rounds and averages a part of the model in each.

What partial and layer-wise averaging share, apart from which part is due when. Clients keep their
local model between the rounds of a cycle (see `fedeff.clients`), so a message carries only what a
client lacks: the means of the round before, or the full model for those who cannot go on without.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record, group_layers, layer_of, merge, subset
from fedeff.core.lists import NO_PART, listed
from fedeff.core.parts import key_of, put, shape_of, take
from fedeff.grids.cohort import Cohort
from fedeff.strategies.fedavg import Asked, FedAvg, FedAvgOptions, at_least
from fedeff.strategies.membership import Cycle
from fedeff.strategies.sessions import cycle_name
from fedeff.strategies.weighted_sum import (
    ArraySpec,
    Layout,
    NDArray,
    Total,
    WeightedSum,
    layout_of,
    mean,
    metric_means,
)

__all__ = ["CycleAvg", "parts_layout"]

Config = dict[str, ConfigRecordValues]

_log = logging.getLogger(__name__)


class CycleAvg(FedAvg):
    """FedAvg with a cohort that is drawn once for `rounds_per_cycle` rounds and keeps its local models.

    The first round of a cycle sends the full model, later ones what was averaged in the round before.
    A member whose reply did not come leaves the cycle. One whose reply was refused, or who answers
    that it has lost its local model (`need_full`), gets the full model with the next message and goes
    on. Where nobody is left the next round begins a new cycle. The model that `aggregate_train` returns
    is whole, but within a cycle parts of it are older than others: evaluate it when `cycle_ended`, as the
    built-in app does. The last round of a run ends its cycle early: every part is due, so no run ends on
    such a mixture (`closes_run`).

    Here every array is due in every round: FedAvg whose cohort stays for a while. Subclasses say by
    `due` which parts of the model are, by `absorb` what becomes of their sums. With `keep_optimizer`
    clients continue their optimiser's moments, also in later cycles. With `overlap` a mean arrives one
    round late and clients add what it differs from what they had sent, as if they had gone on
    training while it travelled.

    `cohort` and the rest of `options` are those of `FedAvg`.
    """

    def __init__(
        self,
        *,
        rounds_per_cycle: int = 1,
        keep_optimizer: bool = False,
        overlap: bool = False,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(
            **options,
        )
        at_least("rounds_per_cycle", rounds_per_cycle, 1)
        self.rounds_per_cycle = rounds_per_cycle
        self.keep_optimizer = keep_optimizer
        self.overlap = overlap
        self.closes_run = True  # whether every part is due in a run's last round
        self.model = ArrayRecord()  # that of the round under way
        self._cycle: Cycle | None = None
        self._versions: tuple[int, ...] = ()  # by layer: the server round of its last mean, 0 for none
        self._versions_before: tuple[int, ...] = ()  # the same one round ago
        self._fresh: tuple[str, ...] = ()  # parts averaged in the last round
        self._means: dict[int, dict[str, NDArray]] = {}  # with overlap: of the last two cycle rounds
        self._warned = False  # that clients keep nothing

    @property
    def cycle_round(self) -> int:
        """The round of the cycle under way, from 0; `rounds_per_cycle` when it is over."""
        return 0 if self._cycle is None else self._cycle.round

    @property
    def cycle_ended(self) -> bool:
        """Whether no cycle is under way: every part of the model is as new as it will be."""
        cycle = self._cycle
        if cycle is None or not cycle.since or cycle.round >= self.rounds_per_cycle:
            return True
        return self._is_last(cycle.server_round - 1)

    def settled_since(self, server_round: int) -> int | None:
        """The first round of the cycle that ended with this one; None within a cycle."""
        if not self.cycle_ended:
            return None
        return server_round if self._cycle is None else self._cycle.first_round

    def model_replaced(self) -> None:
        """The next round begins a cycle, and knows nothing of when a layer was averaged."""
        self._cycle = None
        self._versions, self._versions_before, self._fresh, self._means = (), (), (), {}

    def over(self, grid: Grid) -> Grid:
        """The Grid that the rounds of a new run go through: the one given."""
        self._warned = False
        return super().over(grid)

    def begin_cycle(self) -> None:
        """Called before the first round of each cycle, with `model` set: here nothing is to be done."""

    def due(self, cycle_round: int) -> tuple[str, ...]:
        """The parts of `model` that clients send back in this round of a cycle: here all arrays."""
        return tuple(self.model)

    def round_config(self, cycle_round: int) -> Config:
        """Settings that go to the clients in this round of a cycle; `train_config` overrides them."""
        return {"keep-optimizer": True} if self.keep_optimizer else {}

    def summing(self, layout: Layout) -> WeightedSum:
        """How the replies of a round are summed."""
        return WeightedSum(layout, self.weighted_by)

    def absorb(self, server_round: int, total: Total, layout: Layout) -> dict[str, NDArray]:
        """The new values of the parts that were due: here their means. The total holds a valid reply."""
        return mean(total, layout)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages to those of the cohort that are left, in partition order."""
        self.model = arrays
        cycle = self._cycle = self._going_on(server_round, grid) or self._begun(server_round, grid)
        due = tuple(arrays) if self._is_last(server_round) else self.due(cycle.round)
        settings = {**config, **self.round_config(cycle.round), **self.train_config}
        name = cycle_name(self.session, cycle.first_round)
        settings |= {"server-round": server_round, "cycle": name, "cycle-round": cycle.round}
        if due != tuple(arrays):
            settings["layers-due"] = listed(due, NO_PART)
        if self.overlap and due and cycle.round + 2 < self.rounds_per_cycle:
            settings["keep-sent"] = True
        fold = self.summing(parts_layout(arrays, due))
        self._asked = Asked(server_round, arrays, fold)
        # Whatever was averaged before the mean that is owed now makes no difference.
        owed = cycle.round - (2 if self.overlap else 1)
        kinds = {node: max(since, owed) for node, since in cycle.since.items()}
        contents = {kind: self._content(cycle, kind, settings) for kind in sorted(set(kinds.values()))}
        messages = [
            Message(content=contents[kind], dst_node_id=node, message_type="train")
            for node, kind in kinds.items()
        ]
        return Cohort(messages, fold if self.fold == "workers" else None)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new full model and the metrics' weighted means; None where no reply was valid.

        Raises:
            EngineError: if `configure_train` was not called for this round, or it is over.
        """
        asked, total = self._taken(server_round, replies)
        cycle = self._cycle
        if cycle is None or cycle.server_round != server_round:
            raise EngineError(
                f"round {server_round} was aggregated already; call configure_train for the next round"
            )
        valid = total.weight > 0
        new = self.absorb(server_round, total, asked.fold.layout) if valid else {}
        self._note(cycle, new)
        self._warn_of_lost_state(cycle, total)
        astray = [*total.need_full, *(refusal.node_id for refusal in total.refused)]
        self._cycle = cycle.after(total.nodes, astray)
        if not valid:
            return None, None
        return _with_parts(asked.model, new), MetricRecord({**metric_means(total)})

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold beside the model to go on: who is in step, and with what."""
        if self._cycle is None:
            return {}
        parts = {"fresh": self._fresh, "means": {str(t): list(means) for t, means in self._means.items()}}
        return {
            **self._cycle.state(),
            "session": np.array(self.session, np.int64),
            "cycle-parts": np.frombuffer(json.dumps(parts).encode(), np.uint8),
            "layer-versions": np.array([self._versions, self._versions_before], np.int64),
            **{_mean_key(t, part): v for t, means in self._means.items() for part, v in means.items()},
        }

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if the state is another strategy's.
        """
        try:
            if state:
                self.take_up(state)
            foreign = sorted(state.keys() - self.state().keys())
        except (KeyError, ValueError) as error:
            foreign = [f"no {error}"]
        if foreign:
            raise ResumeError(
                f"a checkpoint holds strategy state {sorted(state)}, which is not that of "
                f"{type(self).__name__} ({', '.join(foreign)}); "
                "resume with the strategy that the run was started with"
            )

    def take_up(self, state: Mapping[str, NDArray]) -> None:
        """Set what `state` gave. Raises KeyError or ValueError where it is another strategy's."""
        self._cycle, self.session = Cycle.restored(state), int(state["session"])
        parts: dict[str, Any] = json.loads(state["cycle-parts"].tobytes())
        self._fresh = tuple(parts["fresh"])
        self._means = {
            int(t): {part: state[_mean_key(int(t), part)] for part in means}
            for t, means in parts["means"].items()
        }
        versions, before = state["layer-versions"].tolist()
        self._versions, self._versions_before = tuple(versions), tuple(before)

    def _is_last(self, server_round: int) -> bool:
        """Whether the run ends with this round, and all is to be averaged in it."""
        return self.closes_run and server_round == self.last_round

    def _warn_of_lost_state(self, cycle: Cycle, total: Total) -> None:
        """Say once that clients seem to keep nothing, where all who answered ask for the whole model."""
        if self._warned or not total.need_full or total.nodes or total.refused:
            return
        self._warned = True
        _log.warning(
            "round %d: all %d clients that answered ask for the whole model, as none has what it kept of the "
            "round before; the runtime seems to lose their Context.state, and then layers that are not sent "
            "in every round stay as they are: keep the state between messages, or use fedavg",
            *(cycle.server_round, len(total.need_full)),
        )

    def _going_on(self, server_round: int, grid: Grid) -> Cycle | None:
        """The cycle that this round belongs to, with the members that are connected; None for a new one."""
        cycle = self._cycle
        if cycle is None or cycle.server_round != server_round or cycle.round >= self.rounds_per_cycle:
            return None
        cycle = cycle.among(grid.get_node_ids())
        return cycle if cycle.since else None

    def _begun(self, server_round: int, grid: Grid) -> Cycle:
        nodes = self._draw(grid, self.cohort, server_round, "cohort")
        layers = len(group_layers(self.model))
        if len(self._versions) != layers:
            self._versions = (0,) * layers
        self._versions_before, self._fresh, self._means = self._versions, (), {}
        self.begin_cycle()
        return Cycle.begin(server_round, nodes)

    def _content(self, cycle: Cycle, since: int, settings: Config) -> RecordDict:
        """What those lack that have had every mean owed to them since a cycle round."""
        content, config = RecordDict(), dict(settings)
        config["layer-versions"] = list(self._versions)
        if since == cycle.round:
            content["arrays"] = self.model
        elif not self.overlap:
            content["arrays"] = _carrying(self.model, self._fresh)
        else:
            # The mean of the round before is still under way to them.
            config["layer-versions"] = list(self._versions_before)
            content["arrays"] = ArrayRecord()
            if since < cycle.round - 1 and (means := self._means.get(cycle.round - 2)):
                content["correction"] = encode_record(means)
                config["corrects"] = [cycle.round - 2]
        content["config"] = ConfigRecord(config)
        return content

    def _note(self, cycle: Cycle, new: dict[str, NDArray]) -> None:
        """Keep what was averaged in this round, for the messages of the next ones."""
        changed = {layer_of(key_of(part)) for part in new}
        layers = group_layers(self.model)
        self.synchronised = tuple(layer for layer in layers if layer in changed)
        self._fresh, self._versions_before = tuple(new), self._versions
        self._versions = tuple(
            cycle.server_round if layer in changed else version
            for layer, version in zip(layers, self._versions, strict=True)
        )
        if self.overlap:
            last = {t: means for t, means in self._means.items() if t == cycle.round - 1}
            self._means = {**last, cycle.round: new}


def parts_layout(arrays: ArrayRecord, parts: Iterable[str]) -> Layout:
    """The layout that a reply with these parts of the arrays must have, in their order.

    Raises:
        ConfigError: for a part that the arrays have not, or that has no mean.
    """
    chosen = tuple(parts)
    whole = {spec.key: spec for spec in layout_of(subset(arrays, {key_of(part) for part in chosen}))}
    return tuple(
        ArraySpec(part, shape_of(part, whole[key_of(part)].shape), whole[key_of(part)].dtype)
        for part in chosen
    )


def _carrying(model: ArrayRecord, parts: tuple[str, ...]) -> ArrayRecord:
    """A record of these parts of the model; whole arrays are shared, not copied."""
    whole = [part for part in parts if part in model]
    if len(whole) == len(parts):
        return subset(model, whole)
    arrays = decode_record(subset(model, {key_of(part) for part in parts}))
    return encode_record(take(arrays, parts))


def _with_parts(model: ArrayRecord, new: Mapping[str, NDArray]) -> ArrayRecord:
    """The model with new values in some parts; all other arrays are shared, not copied."""
    touched = decode_record(subset(model, {key_of(part) for part in new}))
    return merge(model, encode_record(put(touched, new)))


def _mean_key(cycle_round: int, part: str) -> str:
    return f"mean-{cycle_round}/{part}"
