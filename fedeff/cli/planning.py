"""What `fedeff plan` works out: every codec on every link, from measured codecs and stated links."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fedeff.compression.codec import NDArray
from fedeff.compression.cost import measure_cost
from fedeff.compression.spec import codec_of
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.core.round_time import Load, RoundTime, Star, Tree

__all__ = ["Answer", "Planned", "Question", "Silo", "ask"]

_SAMPLE_VALUES = 1 << 22  # at most so many are coded to measure a codec: 16 MB
_UNCODED = "none"


@dataclass(frozen=True)
class Silo:
    """How the workers of a silo are put together."""

    per_machine: int
    worker_bytes_per_s: float
    host_bytes_per_s: float
    scaling: str


@dataclass(frozen=True)
class Question:
    """What is sent, trained and coded, over which links."""

    model: str | None  # None where `size_bytes` of float32 values are sent
    size_bytes: float | None
    compute_s: float
    workers: int
    codecs: tuple[str, ...]
    links: tuple[tuple[float, float], ...]  # bytes a second up and down
    latency_s: float
    down_codec: str | None
    server_bytes_per_s: float
    coding_bytes_per_s: float | None  # None: measured
    silo: Silo | None  # None: a star


@dataclass(frozen=True)
class Answer:
    """One codec: its message, and on every link the round and how many times it is faster."""

    codec: str
    bits_per_value: float
    down: Load
    up: Load
    rounds: tuple[tuple[RoundTime, float], ...]


@dataclass(frozen=True)
class Planned:
    """The answers to a question, uncoded first."""

    question: Question
    values: int
    rows: tuple[Answer, ...]

    @property
    def title(self) -> str:
        """What is sent to how many, in a line."""
        asked = self.question
        what = asked.model or "values"
        who = f"{asked.workers} clients" if asked.silo is None else f"a silo of {asked.workers} workers"
        return f"{what}: {self.values:,} values, {who}, {asked.compute_s:g} s of training a round"

    def json(self) -> str:
        """The same as JSON; unlimited rates are null."""
        asked = self.question
        told = {
            "model": asked.model,
            "values": self.values,
            "topology": "star" if asked.silo is None else "tree",
            "workers": asked.workers,
            "compute_s": asked.compute_s,
            "latency_s": asked.latency_s,
            "server_bytes_per_s": _finite(asked.server_bytes_per_s),
            "codecs": [self._codec(row) for row in self.rows],
        }
        return json.dumps(told, indent=1)

    def _codec(self, row: Answer) -> dict[str, Any]:
        rounds = [
            {
                "up_bytes_per_s": _finite(up),
                "down_bytes_per_s": _finite(down),
                "round_s": one.total_s,
                "compute_s": one.compute_s,
                "transfer_s": one.transfer_s,
                "latency_s": one.latency_s,
                "coding_s": one.coding_s,
                "speed_up": gain,
            }
            for (up, down), (one, gain) in zip(self.question.links, row.rounds, strict=True)
        ]
        return {
            "codec": row.codec,
            "bits_per_value": row.bits_per_value,
            "up_bytes": row.up.size_bytes,
            "down_bytes": row.down.size_bytes,
            "encode_s": row.up.encode_s,
            "decode_s": row.up.decode_s,
            "rounds": rounds,
        }


def ask(question: Question) -> Planned:
    """The round of every codec on every link, after measuring each codec once.

    Raises `ConfigError` for an unknown model or codec, and for impossible numbers.
    """
    _check(question)
    sent = _model(question.model) if question.model is not None else _layer(question.size_bytes or 0.0)
    plain = Load(sent.uncoded_bytes)
    down = plain if question.down_codec is None else _load(question.down_codec, sent, question)
    uncoded = [_round_time(question, link, plain, plain) for link in question.links]
    bits = 8 * plain.size_bytes / sent.values
    rows = [Answer(_UNCODED, bits, plain, plain, tuple((one, 1.0) for one in uncoded))]
    for spec in question.codecs:
        up = _load(spec, sent, question)
        times = [_round_time(question, link, down, up) for link in question.links]
        gains = tuple((one, base.total_s / one.total_s) for one, base in zip(times, uncoded, strict=True))
        rows.append(Answer(spec, 8 * up.size_bytes / sent.values, down, up, gains))
    return Planned(question, sent.values, tuple(rows))


@dataclass(frozen=True)
class _Sent:
    """What is sent, and arrays to measure a codec by: all of it, or a part where it is large."""

    values: int
    uncoded_bytes: float  # in Flower's own form, which is what records count, or as stated
    arrays: Mapping[str, NDArray]


def _check(question: Question) -> None:
    if not 0 < question.compute_s < math.inf:
        raise ConfigError(f"--compute {question.compute_s:g} is no time; give seconds above 0")
    if (silo := question.silo) is None:
        return
    if silo.per_machine < 1 or question.workers % silo.per_machine:
        raise ConfigError(
            f"{question.workers} workers are not machines of {silo.per_machine}; "
            "give --workers as a multiple of --per-machine"
        )
    if any(up != down for up, down in question.links):
        raise ConfigError("--bandwidth UP:DOWN is for --topology star; a silo's network has one rate")


def _model(name: str) -> _Sent:
    from fedeff.core.layers import encode_record, payload_bytes
    from fedeff.models import build, describe

    card = describe(name)
    state = build(card.name, classes=card.classes, input_shape=card.input_shape).state_dict()
    arrays = _normal({key: tuple(tensor.shape) for key, tensor in state.items()})
    values = sum(array.size for array in arrays.values())
    return _Sent(values, payload_bytes(encode_record(arrays)), arrays)


def _layer(size_bytes: float) -> _Sent:
    if not 4 <= size_bytes < math.inf:
        raise ConfigError(f"--bytes {size_bytes:g} holds no float32 value; give 4 or more")
    values = int(size_bytes) // 4
    measured = min(values, _SAMPLE_VALUES)
    rows = math.isqrt(measured)
    return _Sent(values, size_bytes, _normal({"values": (rows, measured // rows)}))


def _normal(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray]:
    rng = generator(0, purpose="plan")
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _load(spec: str, sent: _Sent, question: Question) -> Load:
    """A message under a codec: its bytes as measured, its seconds too unless a speed is given."""
    cost = measure_cost(sent.arrays, codec_of(spec), generator(0, purpose="plan")).of_values(sent.values)
    if question.coding_bytes_per_s is not None:
        cost = cost.at_speed(question.coding_bytes_per_s)
    return Load(cost.coded_bytes, cost.encode_s, cost.decode_s)


def _round_time(question: Question, link: tuple[float, float], down: Load, up: Load) -> RoundTime:
    (up_rate, down_rate), silo = link, question.silo
    if silo is None:
        star = Star(question.workers, down_rate, up_rate, question.latency_s, question.server_bytes_per_s)
        return star.round_time(question.compute_s, down, up)
    machines = question.workers // silo.per_machine
    tree = Tree(
        machines,
        silo.per_machine,
        up_rate,
        question.latency_s,
        silo.worker_bytes_per_s,
        silo.host_bytes_per_s,
        cast(Any, silo.scaling),
    )
    return tree.round_time(question.compute_s, up)


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None
