"""What a client keeps from one message to the next: a value, read from its state and written to it.

Arrays stay Flower records: what a round does not touch is neither decoded nor encoded again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedeff.clients.messages import Tag
from fedeff.clients.training import Array, Moments
from fedeff.core.layers import decode_record

__all__ = ["Kept", "Pack", "read_kept", "write_kept"]

Pack = Callable[[Mapping[str, Array]], ArrayRecord]  # `encode_record` or `hold_record`

_MODEL, _SESSION, _METRICS = "local-model", "session", "session-metrics"
_REPLY, _ACCUMULATED = "session-reply", "accumulated"
_OWN = re.compile(r"local-model|session|session-metrics|session-reply|accumulated|(sent|optimizer)-\d+")


@dataclass(frozen=True)
class Kept:
    """A client's local model after the round `tag`, and what goes with it.

    `metrics` and `reply` are what it answered then; `reply` is None where the model or `sent` says
    it. `sent` holds what was sent since the whole model came and is not corrected yet. `accumulated`
    holds sums of gradients by array key, `counts` how many of them by layer. An optimizer's moments
    outlive cycles. All of it is of one version of the model, `model_version`, and of no worth to another.
    """

    tag: Tag | None = None
    versions: tuple[int, ...] | None = None
    model: ArrayRecord | None = None
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    reply: ArrayRecord | None = None
    sent: Mapping[int, ArrayRecord] = field(default_factory=dict)
    accumulated: ArrayRecord | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    optimizer: str = ""
    optimizer_steps: int = 0
    optimizer_records: tuple[ArrayRecord, ...] = ()
    model_version: int = 0

    def moments(self) -> Moments:
        """The optimizer's moments, none if none were kept."""
        return Moments(
            self.optimizer, self.optimizer_steps, tuple(map(decode_record, self.optimizer_records))
        )

    def with_moments(self, moments: Moments | None, pack: Pack) -> "Kept":
        """The same with these moments; None leaves those that are there."""
        if moments is None:
            return self
        records = tuple(map(pack, moments.arrays))
        return replace(
            self, optimizer=moments.optimizer, optimizer_steps=moments.steps, optimizer_records=records
        )

    def in_cycle(self, cycle: int) -> "Kept":
        """What of this is worth anything in a cycle: of another one the optimizer's moments alone."""
        if self.tag is not None and self.tag[0] == cycle:
            return self
        return Kept(
            optimizer=self.optimizer,
            optimizer_steps=self.optimizer_steps,
            optimizer_records=self.optimizer_records,
            model_version=self.model_version,
        )

    def of_version(self, model_version: int) -> "Kept":
        """What of this is worth anything to a version of the model: nothing, unless it is of that version."""
        return self if self.model_version == model_version else Kept(model_version=model_version)


def read_kept(state: RecordDict) -> Kept:
    """What a client's state holds; nothing where it was lost or is not whole."""
    session = state.get(_SESSION)
    if not isinstance(session, ConfigRecord):
        return Kept()
    version = cast(int, session.get("model-version", 0))
    kept = _with_kept_moments(Kept(model_version=version), session, state)
    model, metrics = state.get(_MODEL), state.get(_METRICS)
    if not isinstance(model, ArrayRecord) or not isinstance(metrics, MetricRecord) or "cycle" not in session:
        return kept
    versions = session.get("layer-versions")
    reply, accumulated = state.get(_REPLY), state.get(_ACCUMULATED)
    return replace(
        kept,
        tag=(cast(int, session["cycle"]), cast(int, session["cycle-round"])),
        versions=None if versions is None else tuple(cast(list[int], versions)),
        model=model,
        metrics=cast(dict[str, int | float], dict(metrics.items())),
        reply=reply if isinstance(reply, ArrayRecord) else None,
        sent=_sent(session, state),
        accumulated=accumulated if isinstance(accumulated, ArrayRecord) else None,
        counts=_counts(session),
    )


def write_kept(state: RecordDict, kept: Kept) -> None:
    """Make `kept` what the state holds of a client's session; other entries stay as they are."""
    entries: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {_SESSION: _session(kept)}
    if kept.model is not None:
        entries |= {_MODEL: kept.model, _METRICS: MetricRecord({**kept.metrics})}
    if kept.reply is not None:
        entries[_REPLY] = kept.reply
    if kept.accumulated is not None:
        entries[_ACCUMULATED] = kept.accumulated
    entries |= {f"sent-{round}": record for round, record in kept.sent.items()}
    entries |= {f"optimizer-{index}": record for index, record in enumerate(kept.optimizer_records)}
    for name in [name for name in state if _OWN.fullmatch(name) and name not in entries]:
        del state[name]
    for name, record in entries.items():
        state[name] = record


def _session(kept: Kept) -> ConfigRecord:
    """The plain values; lists only where there is something to list, as Flower counts no empty ones."""
    record = ConfigRecord()
    if kept.model_version:
        record["model-version"] = kept.model_version
    if kept.tag is not None:
        record["cycle"], record["cycle-round"] = kept.tag
    if kept.versions:
        record["layer-versions"] = list(kept.versions)
    if kept.sent:
        record["sent-rounds"] = list(kept.sent)
    if kept.counts:
        record["accumulated-layers"] = list(kept.counts)
        record["accumulated-counts"] = list(kept.counts.values())
    if kept.optimizer:
        record["optimizer"], record["optimizer-steps"] = kept.optimizer, kept.optimizer_steps
    return record


def _with_kept_moments(kept: Kept, session: ConfigRecord, state: RecordDict) -> Kept:
    if "optimizer" not in session:
        return kept
    records: list[ArrayRecord] = []
    while isinstance(record := state.get(f"optimizer-{len(records)}"), ArrayRecord):
        records.append(record)
    return replace(
        kept,
        optimizer=cast(str, session["optimizer"]),
        optimizer_steps=cast(int, session["optimizer-steps"]),
        optimizer_records=tuple(records),
    )


def _sent(session: ConfigRecord, state: RecordDict) -> dict[int, ArrayRecord]:
    rounds = cast(list[int], session.get("sent-rounds", []))
    records = {round: state.get(f"sent-{round}") for round in rounds}
    return {round: record for round, record in records.items() if isinstance(record, ArrayRecord)}


def _counts(session: ConfigRecord) -> dict[str, int]:
    layers = cast(list[str], session.get("accumulated-layers", []))
    return dict(zip(layers, cast(list[int], session.get("accumulated-counts", [])), strict=True))
