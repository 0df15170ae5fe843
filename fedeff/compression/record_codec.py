"""A codec for whole records of arrays: what a `CodecGrid` is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedeff.compression.codec import Codec, Layout, Memory, NDArray
from fedeff.compression.spec import codec_of, spec_of
from fedeff.compression.wire import pack, scales_of, unpack

__all__ = ["RecordCodec"]


@dataclass(frozen=True)
class RecordCodec:
    """A codec, and the blob that it makes of all arrays of a record.

    >>> RecordCodec.of("tern_grad").spec
    'tern_grad'
    """

    codec: Codec

    @staticmethod
    @lru_cache(maxsize=64)
    def of(spec: str) -> "RecordCodec":
        """The codec of a spec such as `error_feedback(top_k(0.01))`.

        Raises:
            ConfigError: that names what is not understood, with the nearest known name.
        """
        return RecordCodec(codec_of(spec))

    @property
    def spec(self) -> str:
        """The spec that an equal codec is made from."""
        return spec_of(self.codec)

    def pack(
        self,
        arrays: Mapping[str, NDArray],
        memories: Mapping[str, Memory],
        rng: np.random.Generator,
        *,
        compact: bool = False,
    ) -> tuple[bytes, dict[str, Memory]]:
        """One blob of the arrays, and what to remember of each (see `pack`)."""
        return pack(arrays, self.codec, memories, rng, compact=compact)

    def unpack(
        self,
        blob: bytes,
        *,
        expected: Layout | None,
        limit_bytes: int,
        memories: Mapping[str, Memory],
    ) -> tuple[dict[str, NDArray], dict[str, Memory]]:
        """The arrays of a blob of this very codec, and what to remember of each (see `unpack`)."""
        return unpack(blob, codec=self.codec, expected=expected, limit_bytes=limit_bytes, memories=memories)

    def scales(self, blob: bytes, *, expected: Layout | None) -> dict[str, float]:
        """The scales of a blob's arrays that may be shared by all (see `scales_of`)."""
        return scales_of(blob, codec=self.codec, expected=expected)
