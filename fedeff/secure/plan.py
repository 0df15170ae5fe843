"""What is summed in a session: the vector of a reply, and the total that a vector's sum stands for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import Elements
from fedeff.secure.linear_codec import LinearCodec, linear_codec
from fedeff.secure.quantiser import WIDE_BITS, Quantiser
from fedeff.strategies.spread import SpreadTotal
from fedeff.strategies.weighted_sum import ArraySpec, Layout, NDArray, Total, Update

__all__ = ["Plan", "array_rows"]

_METRIC_BITS = 20  # after the point


@dataclass(frozen=True)
class Plan:
    """The layout of a vector, the same for the server and all clients of a session.

    First the arrays, then the weight, then for each metric its weighted sum and the weight of those
    that have it, then, with `spreads`, the weighted square of each array of floats. Floats take one
    element each, whole numbers and the rest a few, in which nothing is lost.
    """

    arrays: tuple[tuple[str, tuple[int, ...], str], ...]  # key, shape, dtype
    clip: float
    fraction_bits: int
    clients: int
    most_examples: int
    server_round: int
    weighted_by: str = "num-examples"
    metrics: tuple[str, ...] = ()
    spreads: bool = False
    codec: str = ""
    codec_seed: int = 0
    difference: bool = False  # codecs code what an array differs from what was sent of it

    @property
    def quantiser(self) -> Quantiser:
        """Its fixed point. Raises ConfigError where a sum could overflow."""
        return Quantiser(self.clip, self.fraction_bits, self.clients, self.most_examples)

    @property
    def layout(self) -> Layout:
        """The arrays, as `read_update` takes them."""
        return tuple(ArraySpec(key, shape, np.dtype(dtype)) for key, shape, dtype in self.arrays)

    @property
    def linear(self) -> LinearCodec:
        """Its codec. Raises ConfigError for one that is not linear."""
        return linear_codec(self.codec, self.codec_seed)

    def differs(self, key: str) -> bool:
        """Whether an array of floats goes as a difference."""
        return self.difference and not self.linear.passes(key)

    def size(self) -> int:
        """Elements of the vector."""
        digits = self.quantiser.digits
        floats = [spec for spec in self.layout if spec.dtype.kind == "f"]
        wide = sum(math.prod(spec.shape) for spec in self.layout if spec.dtype.kind != "f")
        wide += len(self.metrics) + (len(floats) if self.spreads else 0)
        sent = (self.linear.count(s.key, math.prod(s.shape), self.server_round) for s in floats)
        return sum(sent) + wide * digits + 1 + len(self.metrics)

    def vector(self, update: Update, base: Mapping[str, NDArray]) -> Elements:
        """The elements that a client sends; `base` are arrays that others are told as differences to.

        Raises:
            SecureAggregationError: for values, examples or whole numbers beyond what the plan can hold.
        """
        quantiser, linear = self.quantiser, self.linear
        examples = _whole(update.weight, self)
        parts: list[Elements] = []
        squares: list[int] = []
        for spec in self.layout:
            values = update.arrays[spec.key]
            if spec.dtype.kind != "f":
                parts.append(quantiser.split(_wide(spec.key, values, examples)))
                continue
            if self.differs(spec.key):
                values = values - base[spec.key]
            sent = linear.encode(spec.key, values, self.server_round)
            parts.append(quantiser.quantised(f"array {spec.key!r}", sent, examples))
            squares.append(self._square(spec, parts[-1], examples))
        parts.append(np.array([examples], np.int64))
        for name in self.metrics:
            value = update.metrics.get(name, math.nan)
            known = abs(value) <= self._most_metric
            told = round(value * examples * 2**_METRIC_BITS) if known else 0
            parts += [quantiser.split(np.array([told])), np.array([examples * known], np.int64)]
        if self.spreads and squares:
            parts.append(quantiser.split(np.array(squares)))
        return np.concatenate(parts)

    def total(self, elements: Elements, base: Mapping[str, NDArray]) -> Total:
        """The weighted sums that a sum of vectors stands for; who is in it the caller fills in."""
        quantiser, linear, place = self.quantiser, self.linear, 0

        def taken(count: int) -> Elements:
            nonlocal place
            place += count
            return elements[place - count : place]

        total = SpreadTotal() if self.spreads else Total()
        coded: dict[str, NDArray] = {}
        for spec in self.layout:
            size = math.prod(spec.shape)
            if spec.dtype.kind != "f":
                whole = quantiser.joined(taken(size * quantiser.digits))
                total.sums[spec.key] = np.array(whole, np.float64).reshape(spec.shape)
                continue
            sent = quantiser.sum_of(taken(linear.count(spec.key, size, self.server_round)))
            coded[spec.key] = linear.decode(spec.key, sent, size, self.server_round).reshape(spec.shape)
        total.weight = float(taken(1)[0])
        for key, values in coded.items():
            total.sums[key] = values + total.weight * base[key] if self.differs(key) else values
        for name in self.metrics:
            weighted = math.ldexp(quantiser.joined(taken(quantiser.digits))[0], -_METRIC_BITS)
            if weight := float(taken(1)[0]):
                total.metrics[name] = weighted, weight
        if isinstance(total, SpreadTotal):
            self._fill_spreads(total, coded, quantiser.joined(taken(len(coded) * quantiser.digits)))
        return total

    def _fill_spreads(self, total: SpreadTotal, coded: Mapping[str, NDArray], squares: list[int]) -> None:
        """`sum w ||x - mean||^2 = sum w ||x||^2 - ||sum w x||^2 / sum w`, of values as they were summed."""
        for (key, sums), square in zip(coded.items(), squares, strict=True):
            sent = math.ldexp(square, -self._square_bits(sums.size))
            norm = float(np.einsum("i,i->", sums.reshape(-1), sums.reshape(-1)))
            total.spreads[key] = max(0.0, sent - norm / total.weight) if total.weight else 0.0

    def _square(self, spec: ArraySpec, elements: Elements, examples: int) -> int:
        if not self.spreads:
            return 0
        values = self.quantiser.sum_of(elements) / examples
        square = float(np.einsum("i,i->", values, values)) * examples
        return round(math.ldexp(square, self._square_bits(math.prod(spec.shape))))

    @property
    def _most_metric(self) -> float:
        """A metric beyond is left out: with the largest weight it would not fit."""
        return math.ldexp(1.0, WIDE_BITS - 1 - _METRIC_BITS) / self.most_examples

    def _square_bits(self, size: int) -> int:
        """Bits after the point with which the largest square of an array still fits."""
        most = self.most_examples * max(size, 1) * (2 * self.clip) ** 2
        return WIDE_BITS - 1 - math.ceil(math.log2(most))


def array_rows(layout: Layout) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """A layout as a plan tells it."""
    return tuple((spec.key, spec.shape, spec.dtype.str) for spec in layout)


def _whole(weight: float, plan: Plan) -> int:
    if weight != int(weight) or not 0 < weight <= plan.most_examples:
        raise SecureAggregationError(
            f"the reply weighs {weight:g} by {plan.weighted_by!r}, expected a whole number from 1 to "
            f"{plan.most_examples}; set a larger secure-max-examples"
        )
    return int(weight)


def _wide(key: str, values: NDArray, examples: int) -> NDArray:
    whole = values.reshape(-1).astype(np.int64)
    if whole.size and max(-int(whole.min()), int(whole.max())) * examples >= 2**WIDE_BITS:
        raise SecureAggregationError(
            f"array {key!r} of {values.dtype} holds numbers too large to be summed; expected less than "
            f"2^{WIDE_BITS} with their weight"
        )
    return whole * examples
