"""Weighted sums of client updates: the arithmetic of federated averaging, apart from any Strategy.

A reply is checked against the layout of what was asked for, then added to a float64 total. Products
of float32 values with whole example counts are exact in float64, so only additions round. The sum
depends on the order of replies, nothing else: `in_partition_order` fixes it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedeff.core.errors import ConfigError, ReplyError
from fedeff.core.layers import decode
from fedeff.grids.cohort import Folded

__all__ = [
    "CHUNK",
    "ArraySpec",
    "Refusal",
    "Total",
    "Update",
    "WeightedSum",
    "add_scaled",
    "asks_for_full",
    "in_partition_order",
    "layout_of",
    "mean",
    "metric_means",
    "partition_of",
    "read_metrics",
    "read_update",
    "refusal_of",
]

NDArray = np.ndarray[Any, np.dtype[Any]]
Layout = tuple["ArraySpec", ...]
Record = TypeVar("Record", ArrayRecord, MetricRecord)

CHUNK = 32_768  # entries summed at a time: 256 KiB of float64 stay in a core's own cache
_NOT_METRICS = frozenset({"partition-id"})  # says who, not how well: its mean means nothing


@dataclass(frozen=True)
class ArraySpec:
    """Key, shape and dtype that one array of every reply must have."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Refusal:
    """A reply that was left out of a mean, and why."""

    node_id: int
    partition_id: int | None
    reason: str


@dataclass(frozen=True)
class Update:
    """What one reply contributes: its weight, its arrays by key and its numeric metrics."""

    weight: float
    arrays: Mapping[str, NDArray]
    metrics: Mapping[str, float]


@dataclass
class Total:
    """A running weighted sum; `sums` hold float64, `metrics` hold (weighted sum, weight) pairs.

    `nodes` are those whose replies were added, `need_full` those that asked for the whole model.
    """

    weight: float = 0.0
    replies: int = 0
    sums: dict[str, NDArray] = field(default_factory=dict)
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    need_full: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class WeightedSum:
    """Sum replies weighted by a metric of theirs; a `Fold` that may run where the replies are made.

    A reply that does not fit `layout` is listed in the total's `refused` and adds nothing, one that
    asks for the whole model in `need_full`. With an empty layout only the metrics are summed
    (federated evaluation).
    """

    layout: Layout
    weighted_by: str = "num-examples"

    def add(self, total: Total | None, reply: Message) -> Total:
        """The total with one reply added, in place; None starts a new total."""
        total = self.empty() if total is None else total
        if asks_for_full(reply):
            total.need_full.append(reply.metadata.src_node_id)
            return total
        try:
            update = read_update(reply, self.layout, self.weighted_by)
        except ReplyError as refusal:
            total.refused.append(refusal_of(reply, str(refusal)))
            return total
        self.add_arrays(total, update)
        for name, value in update.metrics.items():
            _add_metric(total.metrics, name, value * update.weight, update.weight)
        total.weight += update.weight
        total.replies += 1
        total.nodes.append(reply.metadata.src_node_id)
        return total

    def empty(self) -> Total:
        """The total of no replies."""
        return Total()

    def add_arrays(self, total: Total, update: Update) -> None:
        """Add an update's arrays, times its weight, to the total's sums, in place."""
        scratch = np.empty(CHUNK, np.float64)
        for key, values in update.arrays.items():
            if key not in total.sums:
                total.sums[key] = np.zeros(values.shape, np.float64)
            add_scaled(total.sums[key], values, update.weight, scratch)

    def merge(self, total: Total, other: Total) -> Total:
        """The sum of two totals, in place of `total`; `other` is left as it is."""
        for key, values in other.sums.items():
            if key not in total.sums:
                total.sums[key] = values.copy()
                continue
            if not total.sums[key].flags.writeable:  # came through shared memory
                total.sums[key] = total.sums[key].copy()
            total.sums[key] += values
        for name, (weighted, weight) in other.metrics.items():
            _add_metric(total.metrics, name, weighted, weight)
        total.weight += other.weight
        total.replies += other.replies
        total.refused.extend(other.refused)
        total.nodes.extend(other.nodes)
        total.need_full.extend(other.need_full)
        return total

    def mean(self, total: Total) -> dict[str, NDArray]:
        """The weighted mean by key, in the layout's order and dtypes.

        Raises:
            ReplyError: if the total holds no valid reply.
        """
        return mean(total, self.layout)


def layout_of(arrays: ArrayRecord) -> Layout:
    """The layout that a reply to these arrays must have.

    Raises:
        ConfigError: if an array is not of booleans, integers or real floats: it has no mean here.
    """
    return tuple(
        ArraySpec(key, tuple(array.shape), _dtype(key, array.dtype)) for key, array in arrays.items()
    )


def read_update(reply: Message, layout: Layout, weighted_by: str) -> Update:
    """The reply's weight, arrays (in the layout's order) and metrics.

    Raises:
        ReplyError: if the reply carries an error, or does not fit the layout, or holds NaN or
            infinity, or has no positive finite weight.
    """
    weight, metrics = read_metrics(reply, weighted_by)
    return Update(weight, _read_arrays(reply, layout) if layout else {}, metrics)


def read_metrics(reply: Message, weighted_by: str) -> tuple[float, dict[str, float]]:
    """The reply's weight and its other single-number metrics; lists, NaN and infinity are left out.

    Raises:
        ReplyError: if there is not exactly one MetricRecord with a positive finite weight.
    """
    if reply.has_error():
        raise ReplyError(f"the client failed: {reply.error.reason}")
    record = _only(MetricRecord, reply.content)
    weight = _weight(record, weighted_by)
    return weight, {
        name: value
        for name, value in record.items()
        if name != weighted_by
        and name not in _NOT_METRICS
        and isinstance(value, int | float)
        and math.isfinite(value)
    }


def add_scaled(total: NDArray, values: NDArray, weight: float, scratch: NDArray) -> None:
    """Add `weight * values` to the float64 `total` of the same shape, in place.

    `scratch` is float64 of one axis and any length. Pieces of that length stay in cache, so a large
    array costs one pass over memory and no temporaries of its size. `total` must be C-contiguous.
    """
    flat_total, flat = total.reshape(-1), values.reshape(-1)
    for start in range(0, flat.size, scratch.size):
        piece = flat_total[start : start + scratch.size]
        product = scratch[: piece.size]
        np.copyto(product, flat[start : start + scratch.size])
        np.multiply(product, weight, out=product)
        np.add(piece, product, out=piece)


def mean(total: Total, layout: Layout) -> dict[str, NDArray]:
    """The total's weighted mean by key in the layout's dtypes; integers are rounded to nearest.

    Raises:
        ReplyError: if the total holds no valid reply.
    """
    if not total.weight > 0:
        raise ReplyError(f"no valid reply to average; {len(total.refused)} were refused")
    return {spec.key: _cast(total.sums[spec.key], total.weight, spec.dtype) for spec in layout}


def metric_means(total: Total) -> dict[str, float]:
    """Each metric's weighted mean over the replies that held it, by name in alphabetical order."""
    return {name: weighted / weight for name, (weighted, weight) in sorted(total.metrics.items())}


def partition_of(reply: Message) -> int | None:
    """The partition that the reply's MetricRecord names, if any."""
    if reply.has_error():
        return None
    for record in reply.content.values():
        if isinstance(record, MetricRecord) and isinstance(one := record.get("partition-id"), int):
            return one
    return None


def asks_for_full(reply: Message) -> bool:
    """Whether a client answers that it lacks what the request builds on, and needs the whole model."""
    if reply.has_error():
        return False
    return any(isinstance(one, MetricRecord) and one.get("need-full") == 1 for one in reply.content.values())


def refusal_of(reply: Message, reason: str) -> Refusal:
    """The reply as one that was left out, its reason on one line."""
    return Refusal(reply.metadata.src_node_id, partition_of(reply), " ".join(str(reason).split()))


def in_partition_order(replies: Iterable[Message | Folded]) -> Iterator[Message | Folded]:
    """Replies by ascending partition (then node), whatever order a list of them has.

    Replies without a partition come last, by node: their order is not the same in every runtime.
    A one-pass iterable is a streaming Grid's, which yields in partition order by contract.
    """
    if isinstance(replies, Sequence) and all(isinstance(reply, Message) for reply in replies):
        return iter(sorted(replies, key=_order))
    return iter(replies)


def _order(reply: Any) -> tuple[bool, int, int]:
    partition = partition_of(reply)
    return partition is None, partition or 0, reply.metadata.src_node_id


def _weight(record: MetricRecord, weighted_by: str) -> float:
    weight = record.get(weighted_by)
    if not isinstance(weight, int | float):
        raise ReplyError(f"metric {weighted_by!r} is {weight!r}, expected one number to weigh the reply by")
    if not (math.isfinite(weight) and weight > 0):
        raise ReplyError(f"metric {weighted_by!r} is {weight}, expected a positive number")
    return float(weight)


def _only(kind: type[Record], content: RecordDict) -> Record:
    # The views `content.metric_records` and `array_records` cost more than all other checks.
    records = [record for record in content.values() if isinstance(record, kind)]
    if len(records) != 1:
        raise ReplyError(f"{len(records)} {kind.__name__}s, expected one")
    return records[0]


def _read_arrays(reply: Message, layout: Layout) -> dict[str, NDArray]:
    record = _only(ArrayRecord, reply.content)
    _check_keys(record, layout)
    arrays = {spec.key: _read_array(record, spec) for spec in layout}
    with np.errstate(over="ignore", invalid="ignore"):
        for key, values in arrays.items():
            if not _all_finite(values):
                raise ReplyError(f"array {key!r} holds NaN or infinity")
    return arrays


def _check_keys(record: ArrayRecord, layout: Layout) -> None:
    expected = {spec.key for spec in layout}
    if record.keys() == expected:
        return
    missing, extra = sorted(expected - record.keys()), sorted(record.keys() - expected)
    raise ReplyError(f"arrays do not match what was asked for: missing {missing}, unexpected {extra}")


def _read_array(record: ArrayRecord, spec: ArraySpec) -> NDArray:
    try:
        values = decode(record[spec.key])
    except Exception as error:  # a reply is foreign bytes: whatever NumPy says to them, the run goes on
        raise ReplyError(f"array {spec.key!r} cannot be read: {error}") from error
    if values.shape != spec.shape:
        raise ReplyError(f"array {spec.key!r} has shape {values.shape}, expected {spec.shape}")
    if values.dtype.newbyteorder("=") != spec.dtype:
        raise ReplyError(f"array {spec.key!r} has dtype {values.dtype}, expected {spec.dtype}")
    return values


def _all_finite(values: NDArray) -> bool:
    """Whether no entry is NaN or infinite; the sum tells it in one fast pass."""
    if values.dtype.kind != "f":
        return True
    flat = values.reshape(-1)  # one axis: NumPy sums many axes more slowly
    # Large finite entries may overflow: only then is it worth looking at each.
    return math.isfinite(np.add.reduce(flat)) or bool(np.isfinite(flat).all())


def _dtype(key: str, name: str) -> np.dtype[Any]:
    dtype = np.dtype(name).newbyteorder("=")
    if dtype.kind not in "biuf":
        raise ConfigError(
            f"array {key!r} has dtype {name}, which has no weighted mean here; "
            "keep only boolean, integer and real arrays in the model that is averaged"
        )
    return dtype


def _cast(total: NDArray, weight: float, dtype: np.dtype[Any]) -> NDArray:
    # The quotient is taken in float64 and cast on its way out: no float64 copy of a large layer.
    if dtype.kind == "f":
        return np.divide(total, weight, out=np.empty(total.shape, dtype), casting="same_kind")
    return np.asarray(np.rint(total / weight)).astype(dtype)


def _add_metric(sums: dict[str, tuple[float, float]], name: str, weighted: float, weight: float) -> None:
    so_far, weight_so_far = sums.get(name, (0.0, 0.0))
    sums[name] = (so_far + weighted, weight_so_far + weight)
