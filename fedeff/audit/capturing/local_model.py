"""What a server knows of the weights that a client holds: a model of it, kept up to date by what travels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedeff.audit.capturing.knowledge import Knowledge
from fedeff.audit.view import NDArray
from fedeff.clients.messages import CycleRequest, Request
from fedeff.clients.session import corrected
from fedeff.core.parts import key_of, put, take

__all__ = ["Before", "LocalModel"]

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True, eq=False)
class Before:
    """The weights that a client trains from, as the server knows them; `unsure` masks what it guesses."""

    weights: Arrays
    unsure: Arrays

    @property
    def stale(self) -> frozenset[str]:
        """The arrays in which some entry is a guess."""
        return frozenset(key for key, mask in self.unsure.items() if mask.any())


@dataclass
class LocalModel:
    """One client's weights as the server can follow them.

    Within a cycle a client trains on from weights of its own, of which it sends some parts and is sent
    some. What it trained on and did not send is a guess: the last that was told of it. So is what a lossy
    codec told. The arithmetic is that of `fedeff.clients.session`, from what the server has.
    """

    _cycle: int | None = None
    _weights: dict[str, NDArray] = field(default_factory=dict)
    _unsure: dict[str, NDArray] = field(default_factory=dict)
    _sent: dict[int, dict[str, Knowledge]] = field(default_factory=dict)  # by round of the cycle

    def before(self, request: Request) -> Before:
        """The weights that training starts from, the message applied."""
        cycle = request.cycle
        if cycle is None:
            return Before(request.arrays, _masks(request.arrays, False))
        goes_on = self._cycle == cycle.tag[0]
        if not goes_on:
            self._sent = {}
        whole = not goes_on or request.arrays.keys() >= self._weights.keys()
        if whole:
            self._weights, self._unsure = dict(request.arrays), _masks(request.arrays, False)
        else:
            self._weights = put(self._weights, request.arrays)
            self._unsure = put(self._unsure, _masks(request.arrays, False))
        self._cycle = cycle.tag[0]
        self._correct(cycle)
        if whole:
            self._sent = {}
        return Before(dict(self._weights), dict(self._unsure))

    def after(self, request: Request, told: Mapping[str, Knowledge], values: Arrays) -> None:
        """Note a round's end: what was told by part, and what the weights then are of each part, `values`.

        Of a round whose reply told nothing both are empty.
        """
        if request.cycle is None:
            return
        if request.cycle.keep_sent:
            self._sent[request.cycle.tag[1]] = dict(told)
        if request.procedure == "accumulate":  # no step is taken
            return
        moves = request.reply_with == "displacement"
        guessed = _masks(self._weights, True)
        exact = {part: _inexact(one, values[part]) for part, one in told.items()}
        if moves:
            held = take(self._unsure, told)
            exact = {part: mask | held[part] for part, mask in exact.items()}
        self._unsure = put(guessed, exact)
        fitting = {part: one.astype(self._weights[key_of(part)].dtype) for part, one in values.items()}
        self._weights = put(self._weights, fitting)

    def _correct(self, cycle: CycleRequest) -> None:
        """Apply the correction; what it takes back is known as far as what was told of it then."""
        if not cycle.correction:
            return
        known = [self._sent[one] for one in cycle.corrects if one in self._sent]
        values = [{part: one.values for part, one in sent.items()} for sent in known]
        self._weights = dict(corrected(self._weights, cycle.correction, values))
        lost = len(known) < len(cycle.corrects)
        for part, mask in take(self._unsure, cycle.correction).items():
            told = [_inexact(sent[part], mask) for sent in known if part in sent]
            self._unsure = put(self._unsure, {part: np.logical_or.reduce([mask, *told]) | lost})


def _masks(arrays: Arrays, value: bool) -> dict[str, NDArray]:
    return {key: np.full(values.shape, value) for key, values in arrays.items()}


def _inexact(told: Knowledge, like: NDArray) -> NDArray:
    """Which entries were not told, or not exactly."""
    unknown = np.zeros(like.shape, bool) if told.known is None else ~told.known
    return unknown | (np.broadcast_to(told.std, like.shape) > 0)
