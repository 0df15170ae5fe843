"""What a codec costs: bytes on the wire and seconds, measured by coding."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedeff.compression.codec import Codec, Memory, NDArray, layout_of
from fedeff.compression.wire import pack, unpack
from fedeff.core.errors import ConfigError

__all__ = ["CodingCost", "Trial", "measure_cost"]

_BYTES_OF_FLOAT32 = 4


@dataclass(frozen=True)
class CodingCost:
    """One message of so many values: its blob, and the seconds to make and to read it."""

    values: int
    coded_bytes: float
    encode_s: float
    decode_s: float

    @property
    def bits_per_value(self) -> float:
        """Bits on the wire a value, frame and scales included."""
        return 8 * self.coded_bytes / self.values

    @property
    def encode_bytes_per_s(self) -> float:
        """Bytes of float32 values encoded a second."""
        return self._rate(self.encode_s)

    @property
    def decode_bytes_per_s(self) -> float:
        """Bytes of float32 values decoded a second."""
        return self._rate(self.decode_s)

    @property
    def coding_bytes_per_s(self) -> float:
        """Bytes of float32 values encoded and decoded a second."""
        return self._rate(self.encode_s + self.decode_s)

    def of_values(self, values: int) -> "CodingCost":
        """The same of another number of values: bytes and seconds in proportion."""
        share = values / self.values
        return CodingCost(values, self.coded_bytes * share, self.encode_s * share, self.decode_s * share)

    def at_speed(self, bytes_per_s: float) -> "CodingCost":
        """The same where encoding and decoding each take so many bytes of float32 values a second."""
        if not bytes_per_s > 0:
            raise ConfigError(f"the speed of coding is {bytes_per_s} bytes/s; expected a positive number")
        seconds = self.values * _BYTES_OF_FLOAT32 / bytes_per_s
        return replace(self, encode_s=seconds, decode_s=seconds)

    def _rate(self, seconds: float) -> float:
        return self.values * _BYTES_OF_FLOAT32 / seconds if seconds else float("inf")


class Trial:
    """The same arrays sent again and again, each time with what both ends remember of the last.

    Codecs with a memory cost more from their second message on, and `next` takes that into account.
    Seconds are by default those of this thread on a processor: on a busy machine, too, they are what
    coding takes on an idle one.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray],
        codec: Codec,
        rng: np.random.Generator,
        timer: Callable[[], float] = time.thread_time,
    ) -> None:
        self._arrays, self._codec, self._rng, self._timer = arrays, codec, rng, timer
        self._values = sum(array.size for array in arrays.values())
        if not self._values:
            raise ConfigError("the arrays hold no values; there is nothing to code")
        self._expected = layout_of(arrays)
        self._sender: dict[str, Memory] = {}
        self._receiver: dict[str, Memory] = {}

    def next(self) -> CodingCost:
        """What the next message costs, in the compact wire form, by this trial's timer."""
        begin = self._timer()
        blob, self._sender = pack(self._arrays, self._codec, self._sender, self._rng, compact=True)
        sent = self._timer()
        _, self._receiver = unpack(blob, codec=self._codec, expected=self._expected, memories=self._receiver)
        return CodingCost(self._values, len(blob), sent - begin, self._timer() - sent)


def measure_cost(
    arrays: Mapping[str, NDArray],
    codec: Codec,
    rng: np.random.Generator,
    *,
    repeats: int = 5,
    timer: Callable[[], float] = time.thread_time,
) -> CodingCost:
    """The median message of `repeats`, after one that is not counted."""
    trial = Trial(arrays, codec, rng, timer)
    trial.next()
    seen = [trial.next() for _ in range(repeats)]
    return CodingCost(
        seen[0].values,
        statistics.median(one.coded_bytes for one in seen),
        statistics.median(one.encode_s for one in seen),
        statistics.median(one.decode_s for one in seen),
    )
