"""A round over real links: bytes through sockets, no faster than a rate, coded at both ends; by the wall."""

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.compression.vectors import Arrays
from fedeff.compression import Codec, layout_of, pack, unpack

__all__ = ["Link", "round_s"]

_PIECE_S = 0.002  # how much of a link's time one piece takes


@dataclass(frozen=True)
class Link:
    """A client's link: what it carries each way, and how long the first byte takes."""

    bytes_per_s: float
    latency_s: float

    def carry(self, blob: bytes, into: socket.socket) -> None:
        """Write the blob, each piece when the link would have delivered it."""
        begin = time.perf_counter() + self.latency_s
        piece = max(1, int(self.bytes_per_s * _PIECE_S))
        for start in range(0, len(blob), piece):
            part = blob[start : start + piece]
            due_s = begin + (start + len(part)) / self.bytes_per_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            into.sendall(part)


def round_s(link: Link, model: bytes, updates: Sequence[Arrays], codec: Codec, compute_s: float) -> float:
    """Wall seconds of a round: the model down, training, a coded update up, all of them decoded.

    There is a client for each update, all at the same time; its training, on a device of its own, is a
    sleep of `compute_s`.
    """
    received: list[bytes] = [b""] * len(updates)
    rngs = np.random.default_rng(0).spawn(len(updates))

    def client(number: int) -> None:
        _carried(link, model)
        time.sleep(compute_s)
        blob, _ = pack(updates[number], codec, {}, rngs[number], compact=True)
        received[number] = _carried(link, blob)

    begin = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(updates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for blob, update in zip(received, updates, strict=True):
        unpack(blob, codec=codec, expected=layout_of(update))
    return time.perf_counter() - begin


def _carried(link: Link, blob: bytes) -> bytes:
    """The blob, as it comes out at the other end."""
    near, far = socket.socketpair()
    with near, far:
        sending = threading.Thread(target=link.carry, args=(blob, near))
        sending.start()
        found = bytearray()
        while len(found) < len(blob):
            found += far.recv(1 << 16)
        sending.join()
    return bytes(found)
