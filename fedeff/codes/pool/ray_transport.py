"""Tasks to Ray actors and answers back. Importing this loads Ray."""

import math
import time
from collections.abc import Hashable
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from fedeff.codes.pool.arrays import Call
from fedeff.codes.pool.surface import Answer, Died, Lost, Raised
from fedeff.core.errors import CodeError

__all__ = ["RayTransport", "outcome"]


class RayTransport:
    """Sends by the caller's function, waits for many references at once, fetches each value once."""

    def now(self) -> float:
        """The monotonic clock."""
        return time.monotonic()

    def send(self, fn: Call, actor: Any, value: object) -> Hashable | Raised | Died:
        """The reference that `fn` returns, or what came instead."""
        try:
            reference = fn(actor, value)
        except Exception as error:  # the user's function, or a handle whose actor is known to be dead
            ended = outcome(error)
            return ended if isinstance(ended, Died | Raised) else Raised(error)
        if isinstance(reference, ray.ObjectRef):
            return reference
        return Raised(
            CodeError(f"fn returned {type(reference).__name__}, expected an ObjectRef: actor.f.remote(value)")
        )

    def wait(self, references: list[Any], timeout_s: float | None) -> list[Any]:
        """References that ended, in the order given; values stay where they are until fetched."""
        # Ray counts milliseconds and drops the rest, which would make a spin of a short wait.
        timeout_s = None if timeout_s is None else math.ceil(timeout_s * 1000) / 1000
        ready, others = ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and others:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        return list(ready)

    def fetch(self, references: list[Any]) -> list[Answer | Raised | Lost | Died]:
        """How each ended; all in one call where none failed."""
        if not references:
            return []
        try:
            return [Answer(value) for value in ray.get(references)]
        except Exception:  # which of them it was, each says for itself
            return [_fetched(reference) for reference in references]


def outcome(error: Exception) -> Raised | Lost | Died:
    """What an exception of `ray.get` says about a task."""
    # first: Ray makes it a subclass of its cause too, and the cause may be an actor that the task asked
    if isinstance(error, RayTaskError):
        return Raised(error)
    if isinstance(error, RayActorError | NodeDiedError | WorkerCrashedError):
        return Died(error)
    if isinstance(error, ObjectLostError | TaskCancelledError):
        return Lost()
    return Raised(error)


def _fetched(reference: Any) -> Answer | Raised | Lost | Died:
    try:
        return Answer(ray.get(reference))
    except Exception as error:
        return outcome(error)
