"""What a coded array tells of the array that was coded: which entries, and how exactly.

Every codec must say so here; of one that does not an audit would take its guesses for facts, so it is an
error. A standard deviation is that of the error of a typical entry as far as the payload tells it, on the
large side where it cannot tell: an attack that trusts an entry too much fits noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch

import numpy as np
from numpy.typing import DTypeLike

from fedeff.audit.view import NDArray
from fedeff.compression import (
    EF21,
    QSGD,
    Chain,
    Codec,
    ErrorFeedback,
    Half,
    Memory,
    PowerSGD,
    RandomK,
    Raw,
    Selection,
    Sign,
    TernGrad,
    TopK,
    Uniform,
)
from fedeff.compression.floats import float_dtype, size_of
from fedeff.compression.reading import read_values, split
from fedeff.compression.wire import Entry
from fedeff.core.errors import AuditError

__all__ = ["Knowledge", "Past", "knowledge_of"]

Shape = tuple[int, ...]
_SURELY = 3.0  # standard deviations of a rounding: more than any errs by


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known of an array: `values` in float64, which of them (None: all), with what deviation.

    An entry that is not known is at most `within` from its value, as `fedeff.audit.view.Told` has it.
    """

    values: NDArray
    known: NDArray | None = None
    std: float | NDArray = 0.0
    within: float | NDArray = math.inf

    @property
    def leeway(self) -> NDArray:
        """How far an entry may be from its value but for errors: 0 where it is known."""
        within = np.broadcast_to(self.within, self.values.shape)
        return np.zeros(self.values.shape) if self.known is None else np.where(self.known, 0.0, within)


@dataclass(frozen=True, eq=False)
class Past:
    """What earlier messages of a client leave behind for one array: its receiver's memory, what is owed."""

    memory: Memory = field(default_factory=dict)
    owed: Knowledge | None = None


def knowledge_of(entry: Entry, past: Past) -> tuple[Knowledge, Past]:
    """What an array's payload tells of it, and what to remember for the client's next message.

    Under error feedback what is sent is the array and what the message before left of its own. What it left
    of an entry that it sent is its error, which is as large as its deviation. Of one that it left out it is
    all that there was, a sum over rounds: such an entry is not known, but for the bound that this has
    where it was the smallest that were left out.

    Raises:
        AuditError: for a codec that is not known here.
    """
    codec = entry.codec
    inner = codec.codec if isinstance(codec, ErrorFeedback | EF21) else codec
    found = _read(inner, entry.payload, entry.shape, entry.dtype)
    decoded, memory = codec.decode(entry.payload, entry.shape, entry.dtype, past.memory)
    if isinstance(codec, EF21):  # what travels corrects an estimate that both ends have
        return replace(found, values=np.asarray(decoded, np.float64)), Past(memory)
    if isinstance(codec, ErrorFeedback):
        return _with_owed(found, past.owed), Past(memory, found)
    return found, Past(memory)


def _with_owed(found: Knowledge, owed: Knowledge | None) -> Knowledge:
    if owed is None:
        return found
    masks = [one.known for one in (found, owed) if one.known is not None]
    known = np.logical_and.reduce(masks) if masks else None
    return Knowledge(found.values, known, np.hypot(found.std, owed.std), found.leeway + owed.leeway)


@singledispatch
def _read(codec: Codec, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    raise AuditError(
        f"what codec {getattr(codec, 'name', codec)!r} hides of an array is not known, so an attack would "
        "take its guesses for facts; say so in fedeff.audit.capturing.knowledge"
    )


@_read.register
def _raw(codec: Raw, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    return Knowledge(_decoded(codec, payload, shape, dtype))


@_read.register
def _half(codec: Half, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """Rounding to nearest errs evenly within half a step to either side."""
    values = _decoded(codec, payload, shape, dtype)
    bits, least = (10, -14) if codec.format == "float16" else (7, -126)
    exponents = np.frexp(values)[1] - 1  # of zero: -1, whose step is not
    exponents = np.where(values == 0, least, np.maximum(exponents, least))
    return Knowledge(values, std=np.ldexp(1.0, exponents - bits) / math.sqrt(12))


@_read.register
def _uniform(codec: Uniform, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """Rounded up or down at random: `step^2 p (1 - p)`, a sixth of the square where p is even.

    Where all values lie between few levels p is not, and a quarter is the most that it can be.
    """
    ends, _ = read_values(payload, 2, float_dtype(dtype))
    step = (float(ends[1]) - float(ends[0])) / (2**codec.bits - 1)
    share = 1 / 6 if codec.bits > 3 else 1 / 4
    return Knowledge(_decoded(codec, payload, shape, dtype), std=step * math.sqrt(share))


@_read.register
def _qsgd(codec: QSGD, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    values = _decoded(codec, payload, shape, dtype)
    flat = values.reshape(-1)
    bucket = max(min(codec.bucket or flat.size, flat.size), 1)
    _, rest = split(payload, 1, "form")
    norms, _ = read_values(rest, -(-flat.size // bucket), float_dtype(dtype))
    std = np.empty(flat.size)
    for place, norm in enumerate(norms.tolist()):
        part = slice(place * bucket, (place + 1) * bucket)
        std[part] = _dithered(flat[part], norm / codec.levels)
    return Knowledge(values, std=std.reshape(shape))


@_read.register
def _tern_grad(codec: TernGrad, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """What is clipped, at most a few entries, errs by more."""
    values = _decoded(codec, payload, shape, dtype)
    peak = float(np.abs(values).max(initial=0.0))
    return Knowledge(values, std=_dithered(values, peak or codec.own_scale(payload, shape, dtype)))


@_read.register
def _sign(codec: Sign, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """Magnitudes of mean m deviate from it by about m: exactly so where they fall off exponentially."""
    values = _decoded(codec, payload, shape, dtype)
    return Knowledge(values, std=float(np.abs(values).max(initial=0.0)))


@_read.register
def _power_sgd(codec: PowerSGD, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """What is left out has singular values not much larger than the least of those that travel.

    So of a matrix of lower rank than that of the factors nothing is left out.
    """
    values = _decoded(codec, payload, shape, dtype)
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, values.size)
    if len(payload) == values.size * float_dtype(dtype).itemsize:  # too small to be factored
        return Knowledge(values)
    least = np.linalg.svd(values.reshape(rows, columns), compute_uv=False)[codec.rank - 1]
    left_out = max(min(rows, columns) - codec.rank, 0)
    return Knowledge(values, std=float(least) * math.sqrt(left_out / values.size))


@_read.register(TopK)
@_read.register(RandomK)
def _selected(codec: TopK | RandomK, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    return _kept(codec, Raw(), payload, shape, dtype)


@_read.register
def _chain(codec: Chain, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    return _kept(codec.select, codec.then, payload, shape, dtype)


def _kept(select: Selection, then: Codec, payload: memoryview, shape: Shape, dtype: DTypeLike) -> Knowledge:
    """The kept entries as `then` tells them, without the factor that makes them right in the mean.

    Of the others those that top-k left out are no larger than any that it kept.
    """
    size = size_of(shape)
    kept, count, rest = select.kept(payload, size)
    inner = _read(then, rest, (count,), dtype)
    scale = count / size if isinstance(select, RandomK) and select.unbiased and size else 1.0
    most, error = _least(inner) if isinstance(select, TopK) else (math.inf, 0.0)
    values, known = np.zeros(size), np.zeros(size, bool)
    std, within = np.full(size, error), np.full(size, most)
    values[kept] = scale * inner.values
    known[kept] = True if inner.known is None else inner.known
    std[kept] = scale * np.asarray(inner.std)
    within[kept] = scale * np.asarray(inner.within)
    return Knowledge(*(one.reshape(shape) for one in (values, known, std, within)))


def _least(kept: Knowledge) -> tuple[float, float]:
    """The most that the smallest of the kept magnitudes can be, and the deviation of what tells it."""
    std = np.broadcast_to(kept.std, kept.values.shape)
    sizes = np.abs(kept.values) + _SURELY * std
    told = np.ones(sizes.shape, bool) if kept.known is None else kept.known
    if not told.any():
        return math.inf, 0.0
    place = int(np.argmin(np.where(told, sizes, math.inf)))
    return float(sizes[place]), float(std[place])


def _decoded(codec: Codec, payload: memoryview, shape: Shape, dtype: DTypeLike) -> NDArray:
    memory: Mapping[str, NDArray] = {}
    return np.asarray(codec.decode(payload, shape, dtype, memory)[0], np.float64)


def _dithered(decoded: NDArray, step: float) -> float:
    """The deviation of stochastic rounding to multiples of a step.

    Of a value that is the share p of a step above a multiple it is `sqrt(p (1 - p))` steps. Most values
    are less than one step; then the mean of p is that of the decoded magnitudes in steps, and since
    `p (1 - p)` is concave its mean is at most that of the mean p.
    """
    if not (decoded.size and step):
        return 0.0
    mean = (float(np.abs(decoded).sum()) / step + 1) / (decoded.size + 2)  # no 0 where all came out as 0
    share = min(mean, 0.5)
    return step * math.sqrt(share * (1 - share))
