"""A small code, and actors on a virtual clock that are slow, wrong or dead as told: a pool without Ray."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any

import numpy as np

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.pool.policy import Policy
from fedeff.codes.pool.surface import Answer, CodedPool, Died, Lost, Raised


@dataclass(frozen=True)
class MatrixCode:
    """Any `k` of `k + r` answers of a linear function give all: fixed random combinations."""

    k: int
    r: int
    systematic: bool = True
    quality: float = 1.0  # said of estimates
    parity_models: tuple[str, ...] = ()

    @property
    def matrix(self) -> NDArray:
        coded = np.random.default_rng(7).uniform(
            0.5, 1.5, (self.r if self.systematic else self.k + self.r, self.k)
        )
        return np.vstack([np.eye(self.k), coded]) if self.systematic else coded

    def encode(self, inputs: NDArray) -> NDArray:
        check_inputs(self, inputs)
        return np.tensordot(self.matrix[self.k if self.systematic else 0 :], inputs, 1)

    def decodable(self, mask: NDArray) -> bool:
        return int(mask.sum()) >= self.k

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        check_outputs(self, outputs, mask)
        flat = outputs[mask].reshape(int(mask.sum()), -1)
        values = np.linalg.lstsq(self.matrix[mask], flat, rcond=None)[0].reshape(self.k, *outputs.shape[1:])
        own = mask[: self.k] & self.systematic
        values[own] = outputs[: self.k][own]
        return Decoded(values, np.where(own, 1.0, self.quality))


@dataclass(frozen=True)
class Fate:
    """What becomes of one task: after so many seconds it is answered, or not."""

    delay_s: float = 1.0
    end: str = "answer"  # or "nan", "shape", "raise", "lost", "die"


@dataclass
class VirtualActors:
    """A `Transport` whose actors take the fates given, one a task in the order sent, on a virtual clock."""

    fates: Iterator[Fate]
    deaths_s: dict[Any, float] = field(default_factory=dict)  # when actors die, busy or idle
    slow: dict[Any, float] = field(default_factory=dict)  # seconds that an actor takes whatever the fate says
    clock_s: float = 0.0
    sent: list[tuple[Any, Any]] = field(default_factory=list)  # actors and values
    faults: Counter[str] = field(default_factory=Counter)  # those that fired
    under_way: dict[int, tuple[float, Answer | Raised | Lost | Died]] = field(default_factory=dict)
    references: Iterator[int] = field(default_factory=count)
    looks: int = 0  # at the clock

    def now(self) -> float:
        self.looks += 1
        assert self.looks < 3_000, "the pool spins"
        return self.clock_s

    def send(self, fn: Callable[[Any, Any], Any], actor: Any, value: Any) -> int:
        self.sent.append((actor, value))
        fate, reference = next(self.fates), next(self.references)
        end_s = self.clock_s + self.slow.get(actor, fate.delay_s)
        death_s = self.deaths_s.get(actor, np.inf)
        if fate.end == "die":
            death_s = self.deaths_s[actor] = min(death_s, end_s)
        if death_s <= end_s:
            self.under_way[reference] = (max(death_s, self.clock_s), Died(RuntimeError("of the actor")))
        else:
            self.under_way[reference] = (end_s, self.end(fate.end, fn(actor, value)))
        return reference

    def end(self, how: str, value: Any) -> Answer | Raised | Lost:
        if how == "raise":
            return Raised(RuntimeError("of the function"))
        if how == "lost":
            return Lost()
        if how == "nan":
            return Answer(value * np.nan)
        return Answer(np.zeros(np.size(value) + len(self.sent)) if how == "shape" else value)

    def wait(self, references: list[int], timeout_s: float | None) -> list[int]:
        first_s = min(self.under_way[reference][0] for reference in references)
        assert timeout_s is not None or np.isfinite(first_s), "the pool waits for ever"
        self.clock_s = min(
            max(first_s, self.clock_s), self.clock_s + (np.inf if timeout_s is None else timeout_s)
        )
        return [reference for reference in references if self.under_way[reference][0] <= self.clock_s]

    def fetch(self, references: list[int]) -> list[Answer | Raised | Lost | Died]:
        ends = [self.under_way.pop(reference)[1] for reference in references]  # a second fetch is a KeyError
        self.faults.update(type(end).__name__ for end in ends)
        return ends


def pool(
    code: Any,
    actors: int,
    parity_actors: int,
    fates: Iterator[Fate] | None = None,
    deaths_s: dict[Any, float] | None = None,
    slow: dict[Any, float] | None = None,
    values_only: bool = False,
    **policy: Any,
) -> tuple[CodedPool, VirtualActors]:
    """A pool over virtual actors `a0, a1, ...` and `p0, p1, ...`; tasks take one second unless told."""
    virtual = VirtualActors(fates or repeat(Fate()), deaths_s or {}, slow or {})
    names = [f"a{i}" for i in range(actors)], [f"p{i}" for i in range(parity_actors)]
    return CodedPool(virtual, *names, code, Policy(**policy), values_only), virtual


def double(actor: Any, value: Any) -> Any:
    """The function that actors compute."""
    return 2 * np.asarray(value)
