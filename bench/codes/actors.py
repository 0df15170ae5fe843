"""Real Ray actors: what a pool with a code costs beside Ray's own, and what it saves where some are slow."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.figures import Figure, Spread
from bench.seeded.row import Case, Measured, Row, difference, ratio
from fedeff.codes.berrut import Berrut
from fedeff.codes.code import Code
from fedeff.codes.learned import LearnedCode, PackedCode, Recipe, ResidualCode, fit
from fedeff.codes.mds import MDS
from fedeff.codes.pool import CodedActorPool
from fedeff.core.delays import parse_delays
from fedeff.core.rng import generator
from fedeff.models import build

__all__ = ["row"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_K, _R = 4, 2
_TASKS, _ALTERNATIONS = 400, 7  # without delays
_SLOW_TASKS, _TASK_S, _DELAYS = 400, 0.02, "bimodal:8,0.1"
_BARE, _CODED = "ray.util.ActorPool", f"CodedActorPool, k={_K}, r={_R}"
_SLOW_BARE, _SLOW_CODED = f"{_BARE}, slow actors", f"{_CODED}, slow actors"
_EACH, _LATE, _TAIL = "ms a task", "p50 ms", "p99 ms"
_CODING = "encode + decode of 28x28, p50 ms"
Submit = Callable[[Any, NDArray], Any]


def row() -> Row:
    """Pools without delays in turns, then under real ones; and what coding a group of images takes."""
    settings: Mapping[str, bool | int | float | str] = {
        "k": _K,
        "r": _R,
        "tasks": _TASKS,
        "alternations": _ALTERNATIONS,
        "slow tasks": _SLOW_TASKS,
        "task_s": _TASK_S,
        "delays": _DELAYS,
    }
    return Row("actors", "Real Ray actors", settings, _run, _figures, _NOTE)


def _run(seed: int) -> Measured:
    images = generator(seed, purpose="images").random((_TASKS, 1, 28, 28), np.float32)
    measured: dict[str, Case] = {}
    with _cluster():
        measured |= _without_delays(images)
        measured |= _with_delays(images[:_SLOW_TASKS], seed)
    for name, code in _codes(images):
        measured[name] = {_CODING: _coding_ms(code, images)}
    return measured


def _codes(images: NDArray) -> Iterator[tuple[str, Code]]:
    """Those whose encoding and decoding is timed; one step of training, since more changes no time."""
    torch.set_num_threads(1)
    function = build("cnn")
    for k, r in ((2, 1), (10, 5)):
        yield f"MDS, k={k}, r={r}", MDS(k, r)
        yield f"Berrut, k={k}, r={r}", Berrut(k, r)
        recipes: Mapping[str, Recipe] = {
            "ours": PackedCode(k, r),
            "ours, parity workers run the function": ResidualCode(k, r),
            "published, MLP": LearnedCode(k, r, encoder="mlp"),
            "published, Conv": LearnedCode(k, r, encoder="conv"),
        }
        for name, recipe in recipes.items():
            yield f"{name}, k={k}, r={r}", fit(recipe, function, images, steps=1)


def _without_delays(images: NDArray) -> Measured:
    """Actors that answer at once: the same tasks through both pools, turn by turn."""
    actors = _actors(_K + _R)
    taken: dict[str, list[float]] = {_BARE: [], _CODED: []}
    for _ in range(_ALTERNATIONS):
        for name, pool in ((_BARE, _bare(actors)), (_CODED, _coded(actors))):
            begin = time.perf_counter()
            for _ in pool.map(_ask, images):
                pass
            taken[name].append(1000 * (time.perf_counter() - begin) / len(images))
    return {name: {_EACH: statistics.median(times)} for name, times in taken.items()}


def _with_delays(images: NDArray, seed: int) -> Measured:
    """Items come in groups, one group when the one before is answered; each actor is now and then slow."""
    return {
        _SLOW_BARE: _waits(lambda actors: _grouped(_bare(actors), images), seed),
        _SLOW_CODED: _waits(lambda actors: _grouped(_coded(actors), images), seed),
    }


def _waits(serve: Callable[[list[Any]], list[float]], seed: int) -> Case:
    waits = np.percentile(serve(_actors(_K + _R, seed)), (50, 99))
    return {_LATE: float(waits[0]), _TAIL: float(waits[1])}


def _grouped(pool: Any, images: NDArray) -> list[float]:
    """Milliseconds until each item of a group is answered."""
    waits = []
    for begin in range(0, len(images), _K):
        start = time.perf_counter()
        for image in images[begin : begin + _K]:
            pool.submit(_ask, image)
        while pool.has_next():
            pool.get_next_unordered()
            waits.append(1000 * (time.perf_counter() - start))
    return waits


def _ask(actor: Any, image: NDArray) -> Any:
    return actor.answer.remote(image)


def _bare(actors: Sequence[Any]) -> Any:
    from ray.util import ActorPool

    return ActorPool(list(actors))


def _coded(actors: Sequence[Any]) -> Any:
    return CodedActorPool(actors[:_K], actors[_K:], MDS(_K, _R))


def _actors(count: int, seed: int | None = None) -> list[Any]:
    """Actors that double an image: a linear function, so that an MDS code's answers are exact."""
    import ray

    @ray.remote(num_cpus=0)
    class Doubling:
        def __init__(self, number: int) -> None:
            self._number, self._tasks = number, 0
            self._delays = None if seed is None else parse_delays(_DELAYS, seed)

        def answer(self, image: NDArray) -> NDArray:
            if self._delays is not None:
                time.sleep(_TASK_S * self._delays.slowdown(self._number, self._tasks))
                self._tasks += 1
            return 2 * image

    actors = [Doubling.remote(number) for number in range(count)]  # type: ignore[attr-defined]
    ray.get([actor.answer.remote(np.zeros(1, np.float32)) for actor in actors])
    return actors


@contextmanager
def _cluster() -> Iterator[None]:
    from fedeff.simulation.ray_cluster import cluster

    with cluster(None, {}):
        yield


def _coding_ms(code: Code, images: NDArray) -> float:
    """Coding one group after the other, with as many originals missing as the code bears."""
    came = np.arange(code.k + code.r) >= code.r
    taken = []
    outputs = generator(0, purpose="outputs").random((code.k + code.r, 10), np.float32)
    for group in images[: len(images) // code.k * code.k].reshape(-1, code.k, 1, 28, 28):
        begin = time.perf_counter()
        code.encode(group)
        code.decode(outputs, came)
        taken.append(time.perf_counter() - begin)
    return 1000 * statistics.median(taken)


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    coding = {name: _over(seeds, name) for name in seeds[0] if _CODING in seeds[0][name]}
    return [
        Figure("the pool's overhead a task", difference(seeds, _EACH, _CODED, _BARE), at_most=2.0, unit="ms"),
        *(
            Figure(f"encode + decode, {name}", taken, at_most=None if _peer(name) else 2.0, unit="ms")
            for name, taken in coding.items()
        ),
        Figure("slow actors: Ray's p99 ÷ the coded pool's", ratio(seeds, _TAIL, _SLOW_BARE, _SLOW_CODED)),
        Figure("slow actors: Ray's p50 ÷ the coded pool's", ratio(seeds, _LATE, _SLOW_BARE, _SLOW_CODED)),
    ]


def _peer(name: str) -> bool:
    return name.startswith("published")


def _over(seeds: Sequence[Measured], name: str) -> Spread | None:
    values = [measured[name][_CODING] for measured in seeds if name in measured]
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None


_NOTE = f"""{_K + _R} actors in both pools. Without delays an actor answers at once: what is
measured is the pool, with {_R} tasks more for every {_K} items. With delays a task takes {
    1000 * _TASK_S:.0f} ms, or eight times that with probability 0.1, slept for real, the same for both; a
group comes when the one before is answered. Encoding and decoding are timed on one thread with random
answers of ten classes, as many originals missing as the code bears; what workers run is not part of it."""
