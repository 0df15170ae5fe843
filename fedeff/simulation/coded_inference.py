"""Answers of a network from Ray actors under a code, so that slow or dead ones do not delay them."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from torch import nn

from fedeff.codes.code import Code
from fedeff.codes.pool import Coded, CodedActorPool, PoolStatistics
from fedeff.core.errors import ConfigError

__all__ = ["CodedInference"]

NDArray = np.ndarray[Any, np.dtype[Any]]


class CodedInference:
    """A pool of `k` actors and `r` for parities that hold the network it is asked with.

    Actors start with the first question and live until `close`, or until one of them dies, whereupon the
    next question starts all anew; each question may come with another network. In a process that joined no
    Ray cluster one is started, and left again by `close`.
    """

    def __init__(self, code: Code) -> None:
        if getattr(code, "parity_models", ()):
            raise ConfigError("a learned code is for one network, and a run's changes; take replication")
        self._code = code
        self._left = ExitStack()
        self.actors: list[Any] = []
        self.statistics = PoolStatistics()

    def answers(self, network: nn.Module, batches: Iterable[NDArray]) -> Iterator[Coded]:
        """What the network says of each batch, in order; estimates say so.

        Raises:
            EngineError: if Ray cannot start.
        """
        import ray

        if not self.actors:
            self._start()
        held = ray.put(network)
        for actor in self.actors:  # takes up its tasks in order, so a batch that is sent next meets it
            actor.hold.remote(held)
        own, parity = self.actors[: self._code.k], self.actors[self._code.k :]
        pool = CodedActorPool(own, parity, self._code)
        yield from pool.map(lambda actor, batch: actor.answer.remote(batch), batches)
        self.statistics = pool.statistics
        if self.statistics.deaths:
            self._end()

    def close(self) -> None:
        """End the actors, and Ray where it was started for them."""
        self._end()
        self._left.close()

    def _end(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _start(self) -> None:
        import ray

        from fedeff.simulation.ray_cluster import cluster

        if not ray.is_initialized():
            self._left.enter_context(cluster(None, {}))
        evaluator = ray.remote(num_cpus=0)(_Network)
        self.actors = [evaluator.remote() for _ in range(self._code.k + self._code.r)]


class _Network:
    """What an actor runs: a network on one torch thread."""

    def hold(self, network: nn.Module) -> None:
        import torch

        torch.set_num_threads(1)
        self._network = network.eval()

    def answer(self, batch: NDArray) -> NDArray:
        import torch

        with torch.inference_mode():
            said: NDArray = self._network(torch.from_numpy(batch.copy())).numpy()
        return said
