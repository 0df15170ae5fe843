"""`ray.wait` for the tasks of one group: it stops when the code can decode."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedeff.codes.code import Code
from fedeff.core.errors import CodeError

__all__ = ["coded_wait"]


def coded_wait(refs: Sequence[Any], code: Code, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    """References whose answers came and the others, as soon as the code can decode from the first.

    `refs` are the `k + r` tasks of one group in the order of workers, and so are both lists. What ended in
    an exception, or with its actor, is an erasure: it is among the others, where `ray.get` tells its reason.
    Returns at the latest after `timeout` seconds, or when all have ended; then the code may not be able to.

        ready, _ = coded_wait(refs, code)
        mask = np.array([ref in ready for ref in refs])
        outputs = np.stack([ray.get(ref) if ref in ready else blank for ref in refs])
        answers = code.decode(outputs, mask)

    A code without a threshold, such as Berrut's, is given at least `k` answers. Answers are not looked at:
    for shapes and NaN see `CodedActorPool`.

    Raises:
        CodeError: if these are not the references of one group.
    """
    from fedeff.codes.pool.ray_transport import RayTransport
    from fedeff.codes.pool.surface import Answer

    n = code.k + code.r
    if len(refs) != n or len(set(refs)) != n:
        raise CodeError(f"{len(set(refs))} references, expected {n}: one for each worker of a group")
    transport, mask = RayTransport(), np.zeros(n, dtype=np.bool_)
    place = {ref: worker for worker, ref in enumerate(refs)}
    end_s = None if timeout is None else time.monotonic() + timeout
    pending = list(refs)
    while pending and not (mask.sum() >= code.k and code.decodable(mask)):
        left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
        ended = transport.wait(pending, left_s)
        for ref, result in zip(ended, transport.fetch(ended), strict=True):
            mask[place[ref]] = isinstance(result, Answer)
        pending = [ref for ref in pending if ref not in ended]
        if not ended and left_s == 0:
            break
    return [ref for ref in refs if mask[place[ref]]], [ref for ref in refs if not mask[place[ref]]]
