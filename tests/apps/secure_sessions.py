"""Sessions of secure aggregation in one process, with clients lost and messages changed on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME
from fedeff.secure import PROTOCOLS, Step, Terms, terms_for
from fedeff.secure.client_session import ClientSession
from fedeff.secure.messages import read, written
from fedeff.secure.protocols import client_side, server_side

Change = Callable[[Step, str, int, bytes], bytes]  # step, "down" or "up", client, message


def few(protocol: str, clients: int, threshold: int, privacy: int = 1) -> Terms:
    """Terms of a small session; the graph of `secagg+` is as sparse as it can be."""
    neighbours = clients - 1 if protocol != "secagg+" or clients < 5 else 4
    needed = threshold if protocol != "secagg+" else min(threshold, 2)
    return Terms(protocol, clients, needed, privacy, threshold, neighbours)


@dataclass
class Session:
    """One session; `lost` says from which step on a client answers no longer."""

    terms: Terms
    vectors: Mapping[int, np.ndarray]
    lost: Mapping[int, Step] = field(default_factory=dict)
    change: Change = lambda step, way, client, message: message
    server_round: int = 3
    revived: bool = False  # clients are made anew from what they kept, as in another process

    def __post_init__(self) -> None:
        size = len(next(iter(self.vectors.values())))
        self.server = server_side(self.terms, size, self.server_round)
        self.clients: dict[int, ClientSession] = {}
        self.refused: list[tuple[int, str]] = []
        self.sent: dict[tuple[Step, str, int], bytes] = {}

    def run(self) -> np.ndarray:
        """The sum that the server finds."""
        return [*self.steps()][-1]

    def steps(self):
        """Yields after every exchange, the sum at last."""
        server = self.server
        self._exchange(Step.KEYS, {n: server.invitation(n) for n in self.vectors}, server.take_keys)
        yield
        self._exchange(Step.SHARES, server.rosters(), server.take_shares)
        yield
        self._exchange(Step.INPUT, server.input_requests(b"plan"), server.take_input)
        yield
        self._exchange(Step.REVEAL, server.reveal_requests(), server.take_revealed)
        yield
        yield server.total()

    def expected(self) -> np.ndarray:
        """The plain sum over those that the server says are in it."""
        return np.mod(sum(self.vectors[n] for n in self.server.present), PRIME)

    def _exchange(self, step: Step, requests: Mapping[int, bytes], take) -> None:
        for number, request in requests.items():
            if self.lost.get(number, Step.DONE) <= step:
                continue
            try:
                self.sent[step, "down", number] = request
                answer = self.answer(step, number, self.change(step, "down", number, request))
                self.sent[step, "up", number] = answer
                take(number, self.change(step, "up", number, answer))
            except SecureAggregationError as error:
                self.refused.append((number, str(error)))

    def answer(self, step: Step, number: int, request: bytes) -> bytes:
        """The client's answer."""
        if step == Step.KEYS:
            made = self.clients[number] = client_side(self.terms.protocol)(ClientSession.fresh(request))
            return made.keys()
        client = self.clients[number]
        if self.revived:
            again = read(type(client.kept), written(client.kept))
            client = self.clients[number] = client_side(self.terms.protocol)(again)
        if step == Step.SHARES:
            return client.share(request)
        if step == Step.INPUT:
            assert client.asked(request) == b"plan"
            return client.masked(self.vectors[number])
        return client.reveal(request)


def vectors_of(clients: int, size: int = 5, seed: int = 0) -> dict[int, np.ndarray]:
    """A vector of elements for each client, from 1."""
    rng = np.random.default_rng(seed)
    return {n: rng.integers(0, PRIME, size) for n in range(1, clients + 1)}


__all__ = ["PROTOCOLS", "Session", "few", "terms_for", "vectors_of"]
