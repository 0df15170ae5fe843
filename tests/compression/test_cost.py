"""What a codec costs: counted bytes, seconds by a timer that is told, memories that go on."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from fedeff.compression import Raw, codec_of, pack
from fedeff.compression.cost import CodingCost, Trial, measure_cost
from fedeff.core.errors import ConfigError


def arrays():
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((40, 50)).astype(np.float32), "b": rng.standard_normal(7)}


class Ticking:
    """Each reading is one second later than the last, and the fourth reading ten."""

    def __init__(self):
        self.readings, self.now = 0, 0.0

    def __call__(self):
        self.readings += 1
        self.now += 10.0 if self.readings == 4 else 1.0
        return self.now


def test_bytes_are_those_of_the_compact_wire_form():
    codec = codec_of("tern_grad")
    blob, _ = pack(arrays(), codec, {}, np.random.default_rng(1), compact=True)
    cost = measure_cost(arrays(), codec, np.random.default_rng(1), repeats=2)
    assert (cost.values, cost.coded_bytes) == (2007, len(blob))
    assert cost.bits_per_value == 8 * len(blob) / 2007
    assert cost.encode_s > 0
    assert cost.decode_s > 0


def test_seconds_are_medians_after_a_first_message_that_does_not_count():
    timer = Ticking()
    cost = measure_cost(arrays(), codec_of("raw"), np.random.default_rng(1), repeats=3, timer=timer)
    assert timer.readings == 3 * 4
    assert (cost.encode_s, cost.decode_s) == (1.0, 1.0)


@dataclass(frozen=True)
class Counting:
    """Raw values; each end remembers how many messages it has seen, and tells."""

    name: ClassVar[str] = "counting"
    linear: ClassVar[bool] = True
    told: ClassVar[list[tuple[str, int]]] = []

    def for_array(self, name):
        return self

    def encode(self, x, memory, rng):
        return Raw().encode(x, {}, rng)[0], self._seen("sender", memory)

    def decode(self, payload, shape, dtype, memory):
        return Raw().decode(payload, shape, dtype, {})[0], self._seen("receiver", memory)

    def _seen(self, end, memory):
        seen = int(memory.get("seen", 0))
        self.told.append((end, seen))
        return {"seen": np.array(seen + 1)}


def test_both_ends_remember():
    trial = Trial({"w": np.ones(3, np.float32)}, Counting(), np.random.default_rng(1))
    for _ in range(3):
        trial.next()
    assert Counting.told == [(end, seen) for seen in range(3) for end in ("sender", "receiver")]


def test_rates_and_proportions():
    cost = CodingCost(1000, 500, encode_s=0.5, decode_s=0.25)
    assert (cost.encode_bytes_per_s, cost.decode_bytes_per_s) == (8000, 16000)
    assert cost.coding_bytes_per_s == pytest.approx(4000 / 0.75)
    assert cost.of_values(4000) == CodingCost(4000, 2000, 2.0, 1.0)
    assert cost.at_speed(2000) == CodingCost(1000, 500, 2.0, 2.0)


def test_nothing_to_code_and_no_speed_are_refused():
    with pytest.raises(ConfigError, match="nothing to code"):
        Trial({"w": np.zeros((0, 3), np.float32)}, codec_of("raw"), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="speed of coding is 0"):
        CodingCost(1, 1, 1, 1).at_speed(0)
