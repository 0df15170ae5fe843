"""Fixed point for sums of weighted values, with the proof that no sum wraps around."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.core.errors import ConfigError, SecureAggregationError
from fedeff.core.field import PRIME, Elements, from_field, to_field

__all__ = ["WIDE_BITS", "Quantiser", "most_fraction_bits"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

WIDE_BITS = 60  # of whole numbers that travel as several digits, without the sign
_LARGEST = PRIME // 2  # in size of a sum, of either sign


@dataclass(frozen=True)
class Quantiser:
    """`rint(examples * x * 2^fraction_bits)` as an element of the field, for `|x| <= clip`.

    The weight is multiplied before rounding, so a weighted mean of n clients is off by less than
    `n / 2 * 2^-fraction_bits / examples of all`, and the sum of weights gives the very mean. That a sum
    of `clients` such numbers is below half the prime is proven when this is made, whatever they will be.
    """

    clip: float
    fraction_bits: int
    clients: int
    most_examples: int  # of one client

    def __post_init__(self) -> None:
        if not (0 < self.clip < math.inf and self.clients > 0 and self.most_examples > 0):
            raise ConfigError(
                f"clip {self.clip}, {self.clients} clients, {self.most_examples} examples; expected numbers "
                "above 0"
            )
        if not -1000 < self.fraction_bits < 1000 or self.clients * self._largest > _LARGEST:
            raise ConfigError(
                f"{self.clients} clients with up to {self.most_examples} examples, values up to "
                f"{self.clip:g} and {self.fraction_bits} fraction bits could overflow a sum; take at most "
                f"{most_fraction_bits(self.clip, self.clients, self.most_examples)} fraction bits, or a "
                "smaller clip"
            )
        if self.clients * self.most_examples > _LARGEST:
            raise ConfigError(
                f"{self.clients} clients with up to {self.most_examples} examples have more than "
                f"{_LARGEST} in all, which the sum of weights cannot hold; lower secure-max-examples"
            )

    @property
    def _largest(self) -> int:
        """The largest number of a client, as a whole number of steps."""
        return math.ceil(math.ldexp(self.clip * self.most_examples, self.fraction_bits))

    @property
    def digit_bits(self) -> int:
        """Bits of a digit of which the clients' sum does not wrap around."""
        return (_LARGEST // self.clients + 1).bit_length() - 1

    @property
    def digits(self) -> int:
        """Elements that one wide number takes."""
        return -(-WIDE_BITS // self.digit_bits)

    def quantised(self, what: str, x: NDArray, examples: int) -> Elements:
        """One element a value, flat.

        Raises:
            SecureAggregationError: for a value beyond the clip, which nothing is sent of.
        """
        flat = x.reshape(-1).astype(np.float64)
        peak = np.abs(flat).max(initial=0.0)
        if not peak <= self.clip:
            raise SecureAggregationError(
                f"{what} holds {peak:.6g}, expected at most {self.clip:g} in size; set a larger clip "
                "(secure-clip), or look why the model diverges"
            )
        return to_field(flat * examples, self.fraction_bits, terms=self.clients)

    def sum_of(self, elements: Elements) -> Floats:
        """What a sum of quantised values stands for."""
        return from_field(elements, self.fraction_bits)

    def split(self, wide: NDArray) -> Elements:
        """`(n * digits,)`: whole numbers below 2^60 in size, int64, each as digits of its own sign."""
        size, sign = np.abs(wide.astype(np.int64)), np.sign(wide)
        base = np.arange(self.digits) * self.digit_bits
        digits = (size[:, None] >> base) & (2**self.digit_bits - 1)
        return np.asarray(np.mod(digits * sign[:, None], PRIME)).reshape(-1)

    def joined(self, elements: Elements) -> list[int]:
        """The whole numbers that a sum of `split` ones stands for, exact."""
        signed = (elements - PRIME * (elements > _LARGEST)).reshape(-1, self.digits)
        return [
            sum(digit << (place * self.digit_bits) for place, digit in enumerate(row))
            for row in signed.tolist()
        ]


def most_fraction_bits(clip: float, clients: int, most_examples: int) -> int:
    """The finest fixed point in which no sum can overflow; may be negative."""
    bits = math.floor(math.log2(_LARGEST / (clients * clip * most_examples)))
    fits = clients * math.ceil(math.ldexp(clip * most_examples, bits)) <= _LARGEST
    return bits if fits else bits - 1
