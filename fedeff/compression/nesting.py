"""Which codecs may hold which: a residual or an estimate in the wrong place would grow or mislead."""

import math
from collections.abc import Iterator

from fedeff.compression.chain import Chain
from fedeff.compression.codec import Codec
from fedeff.compression.per_layer import PerLayer
from fedeff.compression.qsgd import QSGD
from fedeff.compression.random_k import RandomK
from fedeff.compression.uniform import Uniform
from fedeff.core.errors import ConfigError

__all__ = ["check_contracts", "parts_of"]

_MOST_NOISE = 2.0  # variance over the square of the norm, at worst


def parts_of(codec: Codec) -> Iterator[Codec]:
    """The codec and, for chains and choices by layer, every codec in it."""
    yield codec
    inside = [one for _, one in codec.rules] if isinstance(codec, PerLayer) else []
    if isinstance(codec, Chain):
        inside = [codec.select, codec.then]
    for one in inside:
        yield from parts_of(one)


def check_contracts(where: str, codec: Codec) -> None:
    """Raise `ConfigError` where what `codec` leaves out would grow, or where it has a memory of its own.

    Entries scaled up are further from the array than nothing at all, and so are levels of 0 and a
    whole norm. The bound for QSGD is its paper's (lemma 3.1), which real arrays stay below by half.
    """
    for part in parts_of(codec):
        if isinstance(part, RandomK) and part.unbiased:
            raise ConfigError(f"{where} needs entries as they are; write random_k(..., unbiased=False)")
        if isinstance(part, Uniform) and part.bits == 1:
            raise ConfigError(
                f"{where} holds uniform(1), whose noise exceeds the array; take sign or uniform(2)"
            )
        if isinstance(part, QSGD) and part.norm == "l2" and _noise(part) >= _MOST_NOISE:
            raise ConfigError(
                f"{where} holds a qsgd whose noise exceeds the array; take levels above "
                f"{math.ceil(math.sqrt(part.bucket) / _MOST_NOISE)} with a bucket, or norm='max'"
            )
        if part.name in ("error_feedback", "ef21"):
            raise ConfigError(f"{where} holds {part.name}, and each has its own memory; take one of them")


def _noise(codec: QSGD) -> float:
    return math.sqrt(codec.bucket) / codec.levels if codec.bucket else math.inf
