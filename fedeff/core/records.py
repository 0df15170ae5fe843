"""What a round cost and gave: bytes up and down, seconds, arrivals, drop-outs, accuracy.

An `Exchange` is one sending of messages and its replies, a `RoundRecord` one line of
`rounds.jsonl`, a `Summary` the whole of `summary.json`. Bytes are payload: the sum of
`len(array.data)` over the arrays that travel, without headers, metrics or configuration.
JSON has no NaN or infinity: both are written as null, which reads back as NaN inside a dictionary
of metrics and as None for `accuracy` and `loss`.
"""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedeff.core.errors import DataError

__all__ = [
    "Aggregation",
    "Exchange",
    "RoundRecord",
    "Summary",
    "append_round",
    "cut_rounds",
    "environment",
    "merge_exchanges",
    "read_rounds",
    "read_summary",
    "summarise",
    "write_summary",
]

_PACKAGES = ("fedeff", "flwr", "torch", "numpy", "ray", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Exchange:
    """One sending of messages and the replies that came back.

    `sent == arrived + errors + missing` for a `send_and_receive`. Messages that are pushed make a record
    of their own, as `sent`; their replies are counted by the pulls that bring them.
    """

    kind: str  # "train", "evaluate" or "query"
    server_round: int
    sent: int  # messages
    arrived: int  # replies with content
    errors: int  # replies that carry an error; no bytes are counted for them
    missing: int  # messages without any reply
    uplink_bytes: int
    downlink_bytes: int
    wall_s: float
    virtual_s: float | None = None  # None without a virtual clock
    participants: tuple[int, ...] = ()  # partition ids of arrivals, node ids where unknown
    metrics: dict[str, float] = field(default_factory=dict)  # means weighted by num-examples
    worst_tenth: dict[str, float] = field(default_factory=dict)  # mean over the worst 10% of clients
    pushed: bool = False  # whether it is of messages pushed and pulled, whose counts add up over exchanges

    def __post_init__(self) -> None:
        _check_counts(self)


@dataclass(frozen=True)
class Aggregation:
    """What a strategy did with the replies of a round, beyond what a Grid sees."""

    refused: int = 0  # replies that were left out of the mean: other arrays, NaN, no examples
    need_full: int = 0  # clients that had lost their part of the model and asked for all of it
    synchronised: tuple[str, ...] = ()  # layers whose mean was taken
    estimated: tuple[int, ...] = ()  # partitions of missing clients whose updates the server estimated


@dataclass(frozen=True)
class RoundRecord:
    """One round: one line of `rounds.jsonl`. Round 0 is the initial model's evaluation, if any.

    Counts without a prefix are clients asked to train; those of federated evaluation carry
    `evaluate_`. Bytes and seconds cover everything that was exchanged in the round; `_total` is the
    sum up to and including it.
    """

    server_round: int
    cohort: int = 0
    arrived: int = 0
    errors: int = 0
    missing: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    uplink_bytes_total: int = 0
    downlink_bytes_total: int = 0
    wall_s: float = 0.0
    wall_s_total: float = 0.0
    virtual_s: float | None = None
    virtual_s_total: float | None = None
    participants: tuple[int, ...] = ()
    train_metrics: dict[str, float] = field(default_factory=dict)
    evaluate_arrived: int = 0
    evaluate_errors: int = 0
    evaluate_missing: int = 0
    evaluate_metrics: dict[str, float] = field(default_factory=dict)
    worst_tenth: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None  # of the global model, evaluated by the server, in [0, 1]
    loss: float | None = None
    refused: int = 0  # these four are as in `Aggregation`
    need_full: int = 0
    synchronised: tuple[str, ...] = ()
    estimated: tuple[int, ...] = ()
    parameters: int | None = None  # entries of the global model's arrays; None where they are not known
    measures: dict[str, float] = field(default_factory=dict)  # what else was measured, of model or round

    def __post_init__(self) -> None:
        _check_counts(self)


@dataclass(frozen=True)
class Summary:
    """What a run came to: the whole of `summary.json`."""

    name: str
    strategy: str = ""
    status: str = "finished"  # "finished", "stopped" (target reached), "interrupted" or "failed"
    reason: str = ""  # why it stopped early or failed, in one line
    seed: int | None = None
    clients: int = 0
    rounds: int = 0  # rounds of training that are on record
    accuracy: float | None = None  # the last one on record
    loss: float | None = None
    best_accuracy: float | None = None
    best_round: int | None = None
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    wall_s: float = 0.0
    virtual_s: float | None = None
    errors: int = 0
    missing: int = 0
    refused: int = 0
    need_full: int = 0
    engine: str = ""
    started_at: str = ""  # ISO 8601
    environment: dict[str, str] = field(default_factory=dict)


def _check_counts(record: Exchange | RoundRecord) -> None:
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, int | float) and item.name not in ("accuracy", "loss") and value < 0:
            raise ValueError(f"{type(record).__name__}.{item.name} is {value}; expected 0 or more")


def merge_exchanges(
    server_round: int,
    exchanges: Sequence[Exchange],
    previous: RoundRecord | None = None,
    *,
    accuracy: float | None = None,
    loss: float | None = None,
    wall_s: float | None = None,
    aggregation: Aggregation | None = None,
    parameters: int | None = None,
    measures: Mapping[str, float] | None = None,
) -> RoundRecord:
    """The record of one round from its exchanges, with totals that continue those of `previous`.

    `wall_s` is the round's duration; without it the sum over exchanges, which leaves out the server's
    own work. Where a round trains in several stages (as secure aggregation does) a client counts once.
    """
    train = [e for e in exchanges if e.kind == "train"]
    evaluate = [e for e in exchanges if e.kind == "evaluate"]
    participants = sorted({p for e in train for p in e.participants})
    stages, pushed = [e for e in train if not e.pushed], [e for e in train if e.pushed]
    arrived = sum(e.arrived for e in pushed)
    arrived += stages[0].arrived if len(stages) == 1 else len({p for e in stages for p in e.participants})
    asked = sum(e.sent for e in pushed) + max((0, *(e.sent for e in stages)))
    uplink, downlink = (sum(e.uplink_bytes for e in exchanges), sum(e.downlink_bytes for e in exchanges))
    seconds = math.fsum(e.wall_s for e in exchanges) if wall_s is None else wall_s
    virtual = [e.virtual_s for e in exchanges if e.virtual_s is not None]
    virtual_before = previous.virtual_s_total if previous else None
    virtual_total = (virtual_before or 0.0) + math.fsum(virtual)
    done = aggregation or Aggregation()
    return RoundRecord(
        server_round=server_round,
        cohort=max(arrived, asked),
        arrived=arrived,
        errors=sum(e.errors for e in train),
        missing=sum(e.missing for e in train),
        uplink_bytes=uplink,
        downlink_bytes=downlink,
        uplink_bytes_total=uplink + (previous.uplink_bytes_total if previous else 0),
        downlink_bytes_total=downlink + (previous.downlink_bytes_total if previous else 0),
        wall_s=seconds,
        wall_s_total=seconds + (previous.wall_s_total if previous else 0.0),
        virtual_s=math.fsum(virtual) if virtual else None,
        virtual_s_total=virtual_total if virtual or virtual_before is not None else None,
        participants=tuple(participants),
        train_metrics=_mean_metrics(train),
        evaluate_arrived=sum(e.arrived for e in evaluate),
        evaluate_errors=sum(e.errors for e in evaluate),
        evaluate_missing=sum(e.missing for e in evaluate),
        evaluate_metrics=_mean_metrics(evaluate),
        worst_tenth=evaluate[-1].worst_tenth if evaluate else {},
        accuracy=accuracy,
        loss=loss,
        refused=done.refused,
        need_full=done.need_full,
        synchronised=done.synchronised,
        estimated=done.estimated,
        parameters=parameters,
        measures=dict(measures or {}),
    )


def _mean_metrics(exchanges: Sequence[Exchange]) -> dict[str, float]:
    """Means over exchanges, weighted by arrivals; an only exchange keeps its values to the last bit."""
    if len(exchanges) == 1:
        return dict(exchanges[0].metrics)
    means = {}
    for name in dict.fromkeys(name for e in exchanges for name in e.metrics):
        having = [e for e in exchanges if name in e.metrics]
        weight = sum(e.arrived for e in having) or 1
        means[name] = math.fsum(e.metrics[name] * e.arrived for e in having) / weight
    return means


def _json(record: RoundRecord | Summary) -> bytes:
    return msgspec.json.encode(record, enc_hook=_plain_number)


def _plain_number(value: Any) -> Any:
    """Metrics often arrive as NumPy scalars."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"a record holds {type(value).__name__}; expected numbers, text and their tuples and dicts"
    )


def append_round(path: Path, record: RoundRecord) -> None:
    """Append one line to a `rounds.jsonl`, after dropping what a kill left of an unfinished line."""
    line = _json(record) + b"\n"
    with path.open("ab+", buffering=0) as file:
        _drop_torn_line(file.fileno())
        file.write(line)


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)


def read_rounds(path: Path) -> tuple[RoundRecord, ...]:
    """The rounds of a `rounds.jsonl`, in order; none where there is no file.

    A last line without its newline, which a kill may leave, is dropped.

    Raises:
        DataError: another line is not a round; names the file and the line.
    """
    if not path.exists():
        return ()
    lines = path.read_bytes().split(b"\n")[:-1]
    return tuple(_parse_round(line, path, number) for number, line in enumerate(lines, 1) if line)


def _parse_round(line: bytes, path: Path, number: int) -> RoundRecord:
    try:
        return msgspec.convert(_null_to_nan(msgspec.json.decode(line)), RoundRecord)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DataError(
            f"{path}:{number} is not the record of a round ({error}); delete the line or run again"
        ) from error


def _null_to_nan(line: Any) -> Any:
    if not isinstance(line, dict):
        return line
    return {
        key: {name: math.nan if x is None else x for name, x in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in line.items()
    }


def cut_rounds(path: Path, last_round: int) -> tuple[RoundRecord, ...]:
    """Keep the rounds up to `last_round` and return them: a resumed run repeats the others."""
    kept = tuple(record for record in read_rounds(path) if record.server_round <= last_round)
    _replace(path, b"".join(_json(record) + b"\n" for record in kept))
    return kept


def _replace(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader, or a kill, finds the old content or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def summarise(
    rounds: Sequence[RoundRecord],
    *,
    name: str,
    strategy: str = "",
    status: str = "finished",
    reason: str = "",
    seed: int | None = None,
    clients: int = 0,
    engine: str = "",
    started_at: str = "",
    environment: Mapping[str, str] | None = None,
) -> Summary:
    """The summary of a run: its last totals, its last accuracy and its best."""
    last = rounds[-1] if rounds else RoundRecord(server_round=0)
    scored = [r for r in rounds if r.accuracy is not None and math.isfinite(r.accuracy)]
    best = max(scored, key=lambda r: r.accuracy or 0.0, default=None)
    losses = [r.loss for r in rounds if r.loss is not None]
    return Summary(
        name=name,
        strategy=strategy,
        status=status,
        reason=reason,
        seed=seed,
        clients=clients,
        rounds=sum(r.server_round > 0 for r in rounds),
        accuracy=scored[-1].accuracy if scored else None,
        loss=losses[-1] if losses else None,
        best_accuracy=best.accuracy if best else None,
        best_round=best.server_round if best else None,
        uplink_bytes=last.uplink_bytes_total,
        downlink_bytes=last.downlink_bytes_total,
        wall_s=last.wall_s_total,
        virtual_s=last.virtual_s_total,
        errors=sum(r.errors + r.evaluate_errors for r in rounds),
        missing=sum(r.missing + r.evaluate_missing for r in rounds),
        refused=sum(r.refused for r in rounds),
        need_full=sum(r.need_full for r in rounds),
        engine=engine,
        started_at=started_at,
        environment=dict(environment or {}),
    )


def write_summary(path: Path, summary: Summary) -> None:
    """Write `summary.json` whole: a kill leaves the old file or the new one."""
    _replace(path, msgspec.json.format(_json(summary), indent=2) + b"\n")


def read_summary(path: Path) -> Summary | None:
    """The summary in a file, or None where there is no file (the run goes on, or was killed).

    Raises:
        DataError: the file is not a summary.
    """
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is not the summary of a run ({error}); delete it") from error


def environment() -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a result, without importing them."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {"processors": str(os.cpu_count() or 1)}
