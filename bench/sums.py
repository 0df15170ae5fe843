"""References for large models: what one process needs for the sum that the engine takes."""

import time
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from bench.apps.echo import model

__all__ = ["same_work", "sum_in_memory"]

Arrays = list[np.ndarray[Any, Any]]


def sum_in_memory(clients: int, rounds: int, floats: int, arrays: int, dtype: str) -> list[float]:
    """Seconds to add the clients' arrays, already decoded and in memory, to one total of `dtype`.

    The arrays are those that the clients return: `clients` distinct sets of float32, all held at once.
    Nothing is sent, decoded, multiplied or encoded: just `total += array`.
    """
    replies = [[x + 1 for x in model(floats, arrays).to_numpy_ndarrays()] for _ in range(clients)]
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        total = [np.zeros(x.shape, dtype) for x in replies[0]]
        for reply in replies:
            for t, x in zip(total, reply, strict=True):
                t += x
        seconds.append(time.perf_counter() - begin)
        if not all((t == clients).all() for t in total):
            raise RuntimeError("the reference sum is wrong")
    return seconds


def same_work(clients: int, rounds: int, floats: int, arrays: int) -> list[float]:
    """Seconds for all that a round computes, in one process that sends nothing to anyone.

    For every client: decode the model, add one, encode the reply, decode it, add it to a float64
    total; then the mean as float32, encoded. Decoding and encoding are Flower's own.
    """
    sent, seconds = model(floats, arrays), []
    for _ in range(rounds):
        begin = time.perf_counter()
        total: Arrays = []
        for _ in range(clients):
            reply = ArrayRecord([x + 1 for x in sent.to_numpy_ndarrays()])
            decoded = reply.to_numpy_ndarrays()
            total = total or [np.zeros(x.shape, np.float64) for x in decoded]
            for t, x in zip(total, decoded, strict=True):
                t += x
        ArrayRecord([(t / clients).astype(np.float32) for t in total])
        seconds.append(time.perf_counter() - begin)
    return seconds
