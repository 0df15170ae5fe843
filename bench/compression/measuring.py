"""Codecs by themselves: bits on the wire, speed, and a round over a paced link against the planner."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.compression.bounds import NDArray, bound_bits, has_levels, mean_kept, sent_entropy
from bench.compression.paced import Link, round_s
from bench.compression.vectors import Arrays, normal_like
from fedeff.compression import Codec, codec_of, layout_of, pack, unpack
from fedeff.compression.cost import CodingCost, Trial, measure_cost
from fedeff.core.rng import generator
from fedeff.core.round_time import Load, Star

__all__ = ["Bits", "Measured", "Paced", "Speed", "measure"]

LAYER = (1000, 1000)  # of normal float32 values: what speed is measured on
LINK = Link(bytes_per_s=2.5e6, latency_s=0.02)  # 20 Mbit/s
COMPUTE_S = 0.2
CLIENTS = 4
_ROUNDS = 5  # at most so many over a link


@dataclass(frozen=True)
class Bits:
    """Bits a value of one codec's messages, frame and scales included."""

    codec: str
    bound: float
    updates: tuple[float, ...]  # of a client each
    normal: float
    updates_entropy: float | None  # None where what is sent is no levels
    normal_entropy: float | None
    mean_kept: float  # of the clients' mean, how much of it the mean of what is decoded holds
    mean_error: float  # how far that is from it, as a share of its length


@dataclass(frozen=True)
class Speed:
    """Bytes of float32 values that one codec takes a second, a repetition each."""

    codec: str
    encode: tuple[float, ...]
    decode: tuple[float, ...]
    both: tuple[float, ...]


@dataclass(frozen=True)
class Paced:
    """A round as planned, and by the wall, a repetition each."""

    codec: str
    planned_s: float
    wall_s: tuple[float, ...]

    @property
    def deviation(self) -> float:
        """How far the median round is from the plan, as a share of it."""
        return abs(statistics.median(self.wall_s) / self.planned_s - 1)


@dataclass(frozen=True)
class Measured:
    """All of it."""

    bits: tuple[Bits, ...]
    speeds: tuple[Speed, ...]
    paced: tuple[Paced, ...]


def measure(updates: Sequence[Arrays], specs: Sequence[str], paced: Sequence[str], repeats: int) -> Measured:
    """Every codec's bits on `updates` and on normal values, its speed, and rounds of some of them."""
    codecs = {spec: codec_of(spec) for spec in specs}
    return Measured(
        tuple(_bits(spec, codec, updates) for spec, codec in codecs.items()),
        _speeds(codecs, repeats),
        tuple(_paced(spec, codec_of(spec), min(repeats, _ROUNDS)) for spec in paced),
    )


def _bits(spec: str, codec: Codec, updates: Sequence[Arrays]) -> Bits:
    found = [_sent(codec, arrays, client) for client, arrays in enumerate(updates)]
    normal, of_normal = _sent(codec, normal_like(updates[0], 0), 0)
    decoded = [arrays for _, arrays in found]
    entropies = [sent_entropy(arrays) for arrays in decoded] if has_levels(codec) else []
    kept, error = mean_kept(_flat(updates), _flat(decoded))
    return Bits(
        spec,
        bound_bits(codec, layout_of(updates[0])),
        tuple(bits for bits, _ in found),
        normal,
        statistics.median(entropies) if entropies else None,
        sent_entropy(of_normal) if entropies else None,
        kept,
        error,
    )


def _sent(codec: Codec, arrays: Arrays, client: int) -> tuple[float, Arrays]:
    """Bits a value on the wire, and what is decoded."""
    blob, _ = pack(arrays, codec, {}, generator(0, purpose="bench", client=client), compact=True)
    decoded, _ = unpack(blob, codec=codec, expected=layout_of(arrays))
    return 8 * len(blob) / sum(array.size for array in arrays.values()), decoded


def _flat(clients: Sequence[Arrays]) -> NDArray:
    return np.stack([np.concatenate([array.reshape(-1) for array in one.values()]) for one in clients])


def _speeds(codecs: dict[str, Codec], repeats: int) -> tuple[Speed, ...]:
    """By this thread's time on a processor; codecs in turns, forwards and backwards."""
    rng = generator(0, purpose="bench")
    layer = {"layer": rng.standard_normal(LAYER, np.float32)}
    trials = {spec: Trial(layer, codec, rng, time.thread_time) for spec, codec in codecs.items()}
    seen: dict[str, list[CodingCost]] = {spec: [] for spec in codecs}
    for repeat in range(repeats + 1):  # the first is not counted
        for spec, trial in list(trials.items())[:: 1 if repeat % 2 else -1]:
            cost = trial.next()
            if repeat:
                seen[spec].append(cost)
    return tuple(
        Speed(
            spec,
            tuple(one.encode_bytes_per_s for one in costs),
            tuple(one.decode_bytes_per_s for one in costs),
            tuple(one.coding_bytes_per_s for one in costs),
        )
        for spec, costs in seen.items()
    )


def _paced(spec: str, codec: Codec, repeats: int) -> Paced:
    rng = generator(0, purpose="bench")
    updates = [{"layer": rng.standard_normal(LAYER, np.float32)} for _ in range(CLIENTS)]
    model = bytes(4 * math.prod(LAYER))
    cost = measure_cost(updates[0], codec, rng)
    star = Star(CLIENTS, LINK.bytes_per_s, LINK.bytes_per_s, LINK.latency_s)
    up = Load(cost.coded_bytes, cost.encode_s, cost.decode_s)
    planned = star.round_time(COMPUTE_S, Load(len(model)), up)
    wall_s = tuple(round_s(LINK, model, updates, codec, COMPUTE_S) for _ in range(repeats))
    return Paced(spec, planned.total_s, wall_s)
