"""One secure sum of ours, each party an object of its own, with processor time and bytes by party."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fedeff.core.field import PRIME
from fedeff.core.rng import generator
from fedeff.secure import Step, most_fraction_bits, terms_for
from fedeff.secure.client_session import ClientSession
from fedeff.secure.messages import read, written
from fedeff.secure.plan import Plan
from fedeff.secure.protocols import client_side, server_side
from fedeff.strategies.weighted_sum import Update

__all__ = ["CLIP", "MOST_EXAMPLES", "PHASES", "Costs", "lost_among", "measured", "update_of"]

T = TypeVar("T")

CLIP, MOST_EXAMPLES = 8.0, 1000
PHASES = {Step.KEYS: "keys", Step.SHARES: "shares", Step.INPUT: "input", Step.REVEAL: "reveal"}


@dataclass
class Costs:
    """Of one sum: processor seconds of the server and of all clients, bytes by phase, up and down."""

    server_s: float = 0.0
    clients_s: float = 0.0
    bytes: dict[str, int] = field(default_factory=dict)
    exact: bool = False
    error: float = 0.0  # the largest of the mean, to that in float64

    def case(self, clients: int) -> dict[str, float | None]:
        """By measure, bytes and client seconds for one client."""
        return {
            "server, CPU s": self.server_s,
            "one client, CPU s": self.clients_s / clients,
            **{
                f"{phase}, kB a client": self.bytes.get(phase, 0) / clients / 1000
                for phase in PHASES.values()
            },
            "exact, %": 100.0 * self.exact,
            "largest error of the mean, 1e-6": 1e6 * self.error,
        }


def update_of(client: int, size: int, seed: int) -> Update:
    """What a client of this number, from 1, has to say."""
    rng = generator(seed, purpose="secure update", client=client)
    return Update(float(rng.integers(1, MOST_EXAMPLES)), {"w": rng.normal(0, 0.05, size).astype("f4")}, {})


def lost_among(clients: int, share: float, seed: int) -> frozenset[int]:
    """Those whose inputs never come."""
    rng = generator(seed, purpose="lost clients")
    return frozenset((rng.permutation(clients)[: round(share * clients)] + 1).tolist())


def measured(protocol: str, clients: int, size: int, lost: frozenset[int], seed: int) -> Costs:
    """The costs of one sum; whoever is lost has shared its secrets and then is gone."""
    terms = terms_for(protocol, clients)
    bits = most_fraction_bits(CLIP, clients, MOST_EXAMPLES)
    plan = Plan((("w", (size,), "<f4"),), CLIP, bits, clients, MOST_EXAMPLES, 1)
    costs, plain = Costs(), _Plain(plan, np.zeros(plan.size(), np.int64), np.zeros(size))
    server = server_side(terms, plan.size(), 1)
    sessions: dict[int, ClientSession] = {}

    def on_server(work: Callable[..., T], *arguments: Any) -> T:
        begin = time.process_time()
        found = work(*arguments)
        costs.server_s += time.process_time() - begin
        return found

    def on_client(step: Step, number: int, request: bytes) -> bytes:
        update = update_of(number, size, seed) if step == Step.INPUT else None
        begin = time.process_time()
        answer = _answer(sessions, protocol, step, number, request, update)
        costs.clients_s += time.process_time() - begin
        if update is not None:
            plain.add(update)
        return answer

    def exchange(step: Step, requests: Mapping[int, bytes], take: Callable[[int, bytes], None]) -> None:
        for number, request in requests.items():
            if step >= Step.INPUT and number in lost:
                continue
            answer = on_client(step, number, request)
            costs.bytes[PHASES[step]] = costs.bytes.get(PHASES[step], 0) + len(request) + len(answer)
            on_server(take, number, answer)

    exchange(Step.KEYS, {n: server.invitation(n) for n in range(1, clients + 1)}, server.take_keys)
    exchange(Step.SHARES, on_server(server.rosters), server.take_shares)
    exchange(Step.INPUT, on_server(server.input_requests, written(plan)), server.take_input)
    exchange(Step.REVEAL, on_server(server.reveal_requests), server.take_revealed)
    total = on_server(lambda: plan.total(server.total(), {}))
    costs.exact = plain.equals(total)
    costs.error = float(np.abs(total.sums["w"] / total.weight - plain.mean()).max())
    return costs


def _answer(
    sessions: dict[int, ClientSession],
    protocol: str,
    step: Step,
    number: int,
    request: bytes,
    update: Update | None,
) -> bytes:
    if step == Step.KEYS:
        sessions[number] = client_side(protocol)(ClientSession.fresh(request))
        return sessions[number].keys()
    session = sessions[number]
    if step == Step.SHARES:
        return session.share(request)
    if step == Step.REVEAL:
        return session.reveal(request)
    assert update is not None
    return session.masked(read(Plan, session.asked(request)).vector(update, {}))


@dataclass
class _Plain:
    """The same sum in the clear: of the quantised vectors, and in float64."""

    plan: Plan
    vectors: Any
    exact: Any
    weight: float = 0.0

    def add(self, update: Update) -> None:
        self.vectors = self.vectors + self.plan.vector(update, {})
        self.exact = self.exact + update.weight * update.arrays["w"].astype(np.float64)
        self.weight += update.weight

    def equals(self, total: Any) -> bool:
        found = self.plan.total(np.mod(self.vectors, PRIME), {})
        return bool(found.weight == total.weight and found.sums["w"].tobytes() == total.sums["w"].tobytes())

    def mean(self) -> Any:
        return self.exact / self.weight
