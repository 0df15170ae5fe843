"""One random generator per (seed, round, client, purpose), so that no draw depends on another.

A stream's key is its meaning, never the order in which streams were asked for: a client draws the
same batches whichever actor runs it, and a resumed run draws what the uninterrupted one did.
"""

import zlib

import numpy as np

__all__ = ["generator", "stream_key"]


def stream_key(seed: int, *, purpose: str, round: int = 0, client: int = 0) -> tuple[int, ...]:
    """The entropy words of one stream; distinct meanings give distinct words."""
    return (seed, zlib.crc32(purpose.encode()), round, client)


def generator(seed: int, *, purpose: str, round: int = 0, client: int = 0) -> np.random.Generator:
    """A fresh generator for one purpose of one client in one round.

    `seed`, `round` and `client` are non-negative integers; `purpose` is a short noun such as
    "batches" or "sampling". Equal arguments give equal draws on every machine.
    """
    return np.random.default_rng(stream_key(seed, purpose=purpose, round=round, client=client))
