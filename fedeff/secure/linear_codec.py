"""Which codecs may sit under a secure sum: those that decode a mean to the mean of what they decode."""

from dataclasses import dataclass

import numpy as np

from fedeff.compression import codec_of
from fedeff.compression.codec import Codec, NDArray
from fedeff.compression.half import Half
from fedeff.compression.per_layer import PerLayer
from fedeff.compression.random_k import RandomK
from fedeff.compression.raw import Raw
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator

__all__ = ["LinearCodec", "linear_codec"]

_ALLOWED = (Raw, Half, RandomK)


def linear_codec(spec: str, seed: int) -> "LinearCodec":
    """The codec of a spec, empty for none.

    `random_k` is linear here since all clients draw the same entries, by the round and the array.

    Raises:
        ConfigError: for one that is not linear, by name.
    """
    codec = codec_of(spec or "raw")
    for one in [inner for _, inner in codec.rules] if isinstance(codec, PerLayer) else [codec]:
        if not isinstance(one, _ALLOWED):
            why = "keeps a memory of its own" if one.linear else "is not linear"
            raise ConfigError(
                f"codec {one.name!r} {why}, so a sum of what clients send cannot be decoded; with secure "
                "aggregation take raw, half, random_k(FRACTION), or per_layer of these"
            )
    return LinearCodec(codec, seed)


@dataclass(frozen=True)
class LinearCodec:
    """A codec for one round's arrays: `encode` at the clients, `decode` of their weighted sum."""

    codec: Codec
    seed: int

    def passes(self, name: str) -> bool:
        """Whether the array goes as it is."""
        return isinstance(self.codec.for_array(name), Raw)

    def count(self, name: str, size: int, server_round: int) -> int:
        """Values that travel of an array of so many."""
        return self.encode(name, np.zeros(size, np.float32), server_round).size

    def encode(self, name: str, x: NDArray, server_round: int) -> NDArray:
        """The values of an array of floats that travel, flat."""
        codec = self.codec.for_array(name)
        if isinstance(codec, RandomK):
            return codec.select(x, self._shared(name, server_round))[1]
        if isinstance(codec, Half):
            payload, _ = codec.encode(x, {}, self._shared(name, server_round))
            return codec.decode(payload, x.shape, x.dtype, {})[0].reshape(-1)
        return x.reshape(-1)

    def decode(self, name: str, values: NDArray, size: int, server_round: int) -> NDArray:
        """What a sum of encoded arrays stands for, float64, flat."""
        codec = self.codec.for_array(name)
        if not isinstance(codec, RandomK):
            return values
        seed, _ = codec.select(np.zeros(size, np.float32), self._shared(name, server_round))
        found = np.zeros(size, np.float64)
        found[codec.kept(memoryview(seed), size)[0]] = values
        return found

    def _shared(self, name: str, server_round: int) -> np.random.Generator:
        """The same draws for every client of a round."""
        return generator(self.seed, purpose=f"secure codec {name}", round=server_round)
