"""Naive NumPy clients that keep their model between the rounds of a cycle, and a way to play rounds.

A client's step in a round is a seeded draw less a tenth of its weights, so whoever stands elsewhere than
it should is seen. `faults` maps (partition, server round) to what goes wrong: "request" or "reply" (lost
on the way), "raise", "forget" (its state is lost before the message), "stale" (its state is of another
round), "version" (it missed a mean), "malformed" and "nan" (its reply).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.core.lists import NO_PART, NO_ROUND, entries
from fedeff.core.parts import put, take

Arrays = dict[str, np.ndarray]

SHAPES = {
    "conv.weight": (4, 3),
    "fc1.weight": (10, 7),
    "conv.bias": (4,),
    "fc1.bias": (10,),
    "fc2.weight": (3, 10),
    "scale": (),
}


def model(dtype: str = "f8", seed: int = 0) -> ArrayRecord:
    rng = np.random.default_rng(seed)
    return encode_record({key: np.array(rng.normal(size=shape), dtype) for key, shape in SHAPES.items()})


def examples_of(partition: int) -> int:
    return 1 + partition % 4


def trained(weights: Mapping[str, np.ndarray], partition: int, server_round: int) -> Arrays:
    """One round of training; layers drift unlike distances."""
    rng = np.random.default_rng([partition, server_round])
    return {
        key: np.asarray(values + rng.normal(scale=1 + place, size=values.shape) - 0.1 * values, values.dtype)
        for place, (key, values) in enumerate(weights.items())
    }


@dataclass
class Kept:
    """What one client keeps."""

    tag: tuple[int, int]
    versions: list[int]
    weights: Arrays
    sent: dict[int, Arrays]
    content: RecordDict


@dataclass
class Clients:
    """All clients; `began` and `ended` hold their weights before and after training by (partition, round)."""

    faults: Mapping[tuple[int, int], str] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    began: dict[tuple[int, int], Arrays] = field(default_factory=dict)
    ended: dict[tuple[int, int], Arrays] = field(default_factory=dict)
    need_full: list[tuple[int, int]] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def __call__(self, partition: int, message: Message) -> Message | None:
        at = partition, int(message.content["config"]["server-round"])
        fault = self.faults.get(at, "")
        if fault:
            self.fired[fault] += 1
        if fault == "request":
            return None
        if fault == "raise":
            return Message(Error(code=1, reason="the client's own mistake"), reply_to=message)
        if fault == "forget":
            self.kept.pop(partition, None)
        if fault in ("stale", "version") and partition in self.kept:
            kept = self.kept[partition]
            cycle, cycle_round = kept.tag
            if fault == "stale":
                kept.tag = cycle, cycle_round - 1
            else:
                kept.versions = [version - 1 for version in kept.versions]
        content = self._answer(at, message.content)
        if fault == "reply":
            return None
        if fault in ("malformed", "nan"):
            content = _spoilt(content, fault)
        return Message(content, reply_to=message)

    def _answer(self, at: tuple[int, int], content: RecordDict) -> RecordDict:
        partition, _ = at
        config = content["config"]
        tag = int(config["cycle"]), int(config["cycle-round"])
        if partition in self.kept and self.kept[partition].tag == tag:
            self.repeated += 1
            return self.kept[partition].content
        weights = self._applied(partition, content)
        numbers: dict[str, Any] = {"partition-id": partition}
        if weights is None:
            self.need_full.append(at)
            return RecordDict({"metrics": MetricRecord({**numbers, "num-examples": 0, "need-full": 1})})
        after = trained(weights, *at)
        self.began[at], self.ended[at] = weights, after
        reply = take(after, entries(config.get("layers-due", list(after)), NO_PART))
        numbers |= {"num-examples": examples_of(partition), "loss": float(partition)}
        answer = RecordDict({"arrays": encode_record(reply), "metrics": MetricRecord(numbers)})
        sent = self.kept[partition].sent if partition in self.kept and tag[1] else {}
        sent = {t: parts for t, parts in sent.items() if t not in _corrects(config)}
        if config.get("keep-sent"):
            sent[tag[1]] = reply
        self.kept[partition] = Kept(tag, list(config["layer-versions"]), after, sent, answer)
        return answer

    def _applied(self, partition: int, content: RecordDict) -> Arrays | None:
        config, arrays = content["config"], decode_record(content["arrays"])
        if len(arrays) == len(SHAPES) and set(arrays) == set(SHAPES):
            return dict(arrays)
        kept = self.kept.get(partition)
        if kept is None or kept.tag != (config["cycle"], config["cycle-round"] - 1):
            return None
        correction = decode_record(content.get("correction", ArrayRecord()))
        carried = {part.rpartition("[")[0] or part for part in (*arrays, *correction)}
        layers = group_layers(kept.weights)
        stale = [
            layer
            for layer, version, wanted in zip(layers, kept.versions, config["layer-versions"], strict=True)
            if version != wanted and carried.isdisjoint(layers[layer])
        ]
        if stale or any(t not in kept.sent for t in _corrects(config)):
            return None
        weights = put(kept.weights, arrays)
        if correction:
            weights = put(weights, {p: take(weights, [p])[p] + mean for p, mean in correction.items()})
            for t in _corrects(config):
                sent = {p: values for p, values in kept.sent[t].items() if p in correction}
                weights = put(weights, {p: take(weights, [p])[p] - values for p, values in sent.items()})
        return weights


def _corrects(config: ConfigRecord) -> tuple[int, ...]:
    return entries(config.get("corrects", []), NO_ROUND)


def _spoilt(content: RecordDict, fault: str) -> RecordDict:
    arrays = decode_record(content["arrays"])
    if fault == "malformed":
        wrong = {key: np.zeros((2, *values.shape), values.dtype) for key, values in arrays.items()}
    else:
        wrong = {key: values * np.nan for key, values in arrays.items()}
    return RecordDict({"arrays": encode_record(wrong), "metrics": content["metrics"]})


@dataclass(frozen=True)
class Played:
    """One round as the server saw it."""

    server_round: int
    model: ArrayRecord
    metrics: dict[str, Any] | None
    messages: list[Message]
    partitions: list[int]
    refused: tuple[int | None, ...]
    failed: int
    need_full: int
    synchronised: tuple[str, ...]

    @property
    def arrays(self) -> Arrays:
        return decode_record(self.model)

    def config(self, place: int = 0) -> ConfigRecord:
        return self.messages[place].content["config"]


def play(strategy: Any, grid: Any, start: ArrayRecord, rounds: int, first: int = 1) -> Iterator[Played]:
    """Rounds `first` to `rounds`, one by one."""
    now = start
    for server_round in range(first, rounds + 1):
        messages = strategy.configure_train(server_round, now, ConfigRecord(), grid)
        partitions = [grid.nodes[one.metadata.dst_node_id] for one in messages]
        new, metrics = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        now = now if new is None else new
        yield Played(
            server_round,
            now,
            None if metrics is None else dict(metrics),
            list(messages),
            partitions,
            tuple(refusal.partition_id for refusal in strategy.refused),
            len(strategy.failed),
            len(strategy.need_full),
            strategy.synchronised,
        )


def same(one: ArrayRecord, two: ArrayRecord) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


def close(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray], rtol: float = 1e-12) -> None:
    assert list(one) == list(two)
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=rtol, atol=rtol)


def average(models: Mapping[int, Mapping[str, np.ndarray]], keys: Any) -> Arrays:
    """The mean by partition's examples, in float64, two passes over everything and no tricks."""
    weights = {partition: examples_of(partition) / sum(map(examples_of, models)) for partition in models}
    return {key: sum(weights[p] * models[p][key].astype(float) for p in models) for key in keys}
