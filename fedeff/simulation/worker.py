"""What runs inside a Ray actor: one client app, loaded once, running blocks.

A block's result leaves as plain values plus one NumPy view per large array, which Ray writes
straight into shared memory.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import ray

from fedeff.core.flower import PackedContent, set_task_identity
from fedeff.simulation.block import Block, BlockResult, Shared, Site, run_block

__all__ = ["Buffers", "ClientActor", "from_buffers", "to_buffers"]

Buffers = list[np.ndarray[Any, np.dtype[np.uint8]]]


def to_buffers(blobs: Sequence[bytes]) -> Buffers:
    """Views that Ray carries out of band, without pickling the bytes."""
    return [np.frombuffer(data, np.uint8) for data in blobs]


def from_buffers(buffers: Buffers) -> list[bytes]:
    """The bytes again: one copy out of shared memory, so that its pages can be reused."""
    return [buffer.tobytes() for buffer in buffers]


class ClientActor:
    """A worker process: keeps the app and what the current exchange shares, nothing of any client."""

    def __init__(self, search_path: list[str], folder: str) -> None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
        # The app's modules must be found as they are in the server's process.
        sys.path[:] = [*search_path, *(entry for entry in sys.path if entry not in search_path)]
        if os.path.isdir(folder):  # noqa: PTH112 - another machine of the cluster may not have it
            os.chdir(folder)
        self._shared_key: int | None = None
        self._shared = Shared((), ())

    def load(self, app: bytes, site: bytes) -> int:
        """Load the client app; the process id."""
        self._site: Site = cloudpickle.loads(site)
        set_task_identity(self._site.run_id)
        self._app = cloudpickle.loads(app)
        one_thread()
        return os.getpid()

    def run_block(
        self, block: Block, buffers: Buffers, key: int, shared: list[Any]
    ) -> tuple[BlockResult, Buffers]:
        """Run a block; `shared` holds a reference that is followed once per exchange."""
        if key != self._shared_key:
            self._shared = Shared((), ())  # let go of the last exchange before the next arrives
            contents, shared_buffers = _fetch(shared[0])
            self._shared, self._shared_key = Shared(contents, from_buffers(shared_buffers)), key
        block = replace(block, blobs=from_buffers(buffers))
        result = run_block(self._app, block, self._shared, self._site)
        return replace(result, blobs=()), to_buffers(result.blobs)


def _fetch(reference: Any) -> tuple[tuple[PackedContent, ...], Buffers]:
    contents, buffers = ray.get(reference)
    return contents, buffers


def one_thread() -> None:
    """Hold torch, if the app has loaded it, to one thread: so that every runtime adds alike."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
