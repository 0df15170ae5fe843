"""The server's side of a session: what LightSecAgg's and SecAgg's have in common.

    invitation(number); take_keys(number, message)
    rosters(); take_shares(number, message)
    input_requests(plan); take_input(number, message)
    reveal_requests(); take_revealed(number, message)
    total()

Closing a step (`rosters`, `input_requests`, `reveal_requests`, `total`) leaves those behind that have not
answered, and ends the session where too few are left. The object holds public keys, the keys of its
channels to clients, sealed shares that it cannot open, and the running sum of masked vectors.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME, Elements
from fedeff.secure.client_session import CHANNEL
from fedeff.secure.envelope import SERVER, TAG_BYTES, Label, Step, check_tag, opened, sealed
from fedeff.secure.graph import neighbours_of
from fedeff.secure.keys import KEY_BYTES, KeyPair
from fedeff.secure.masks import elements_of
from fedeff.secure.messages import (
    Begin,
    InputRequest,
    PeerKeys,
    Revealed,
    RevealRequest,
    Roster,
    SealedShares,
    read,
    written,
)
from fedeff.secure.terms import Terms

__all__ = ["ServerSession"]


class ServerSession(ABC):
    """One secure sum of vectors of `size` elements."""

    def __init__(self, terms: Terms, size: int, server_round: int) -> None:
        self.terms, self.size, self.server_round = terms, size, server_round
        self.session = os.urandom(16)
        self.step = Step.KEYS
        self.keys: dict[int, PeerKeys] = {}  # of those that answered the invitation, by number
        self.sealed: dict[int, SealedShares] = {}  # of those that shared their secrets
        self.present: set[int] = set()  # whose input is in the sum
        self.revealed: dict[int, Revealed] = {}
        self.on_input: Callable[[Elements], None] | None = None  # told of each masked vector that came
        self._own = KeyPair.new()
        self._channels: dict[int, bytes] = {}
        self._sum = np.zeros(size, np.int64)  # not reduced: 2^32 vectors fit

    def invitation(self, number: int) -> bytes:
        """The first message to client `number`."""
        begin = Begin(self.terms, self.session, self.server_round, number, self.size, self._own.public)
        return written(begin)

    def take_keys(self, number: int, message: bytes) -> None:
        """Note a client's public keys.

        This and every other `take_` method raises SecureAggregationError for a message that is not the
        one awaited of this client, and leaves all as it was.
        """
        self._await(Step.KEYS, number, number in self.keys, 1 <= number <= self.terms.clients)
        label = self._label(Step.KEYS, number).packed()
        end = len(label) + 2 * KEY_BYTES
        if len(message) != end + TAG_BYTES or message[: len(label)] != label:
            raise SecureAggregationError(
                f"client {number} answers an invitation by {len(message)} bytes that are not its keys for "
                f"this session; expected {end + TAG_BYTES}"
            )
        public = message[len(label) : len(label) + KEY_BYTES]
        purpose = CHANNEL + hashlib.sha256(self.invitation(number)).digest()
        channel = self._own.agreed(public, purpose)
        check_tag(channel, message[:end], message[end:])
        self.keys[number] = PeerKeys(number, public, message[len(label) + KEY_BYTES : end])
        self._channels[number] = channel

    def rosters(self) -> dict[int, bytes]:
        """By number the next message, to all that gave their keys."""
        self._close(Step.KEYS, Step.SHARES, len(self.keys))
        return {
            number: self._to(number, Roster(tuple(self.keys[one] for one in self._around(number, self.keys))))
            for number in sorted(self.keys)
        }

    def take_shares(self, number: int, message: bytes) -> None:
        """Keep a client's sealed shares for its peers."""
        self._await(Step.SHARES, number, number in self.sealed, number in self.keys)
        shares = read(SealedShares, self._from(number, message))
        if shares.receivers != self._around(number, self.keys) or len(shares.shares) != len(shares.receivers):
            raise SecureAggregationError(f"client {number} shares with others than those on its roster")
        self.sealed[number] = shares

    def input_requests(self, plan: bytes) -> dict[int, bytes]:
        """By number the next message, to all that shared; `plan` says what their vectors are."""
        self._close(Step.SHARES, Step.INPUT, len(self.sealed))
        return {
            number: self._to(number, InputRequest(self._around(number, self.sealed), plan))
            for number in sorted(self.sealed)
        }

    def take_input(self, number: int, message: bytes) -> None:
        """Add a client's masked vector to the sum."""
        self._await(Step.INPUT, number, number in self.present, number in self.sealed)
        masked = elements_of(self._from(number, message), self.size)
        self._sum += masked
        self.present.add(number)
        if self.on_input is not None:
            self.on_input(masked)

    def reveal_requests(self) -> dict[int, bytes]:
        """By number the last message, to all whose input came."""
        self._close(Step.INPUT, Step.REVEAL, len(self.present))
        requests = {number: self._to(number, self._reveal(number)) for number in sorted(self.present)}
        self.sealed = {number: self._without_shares(shares) for number, shares in self.sealed.items()}
        return requests

    def take_revealed(self, number: int, message: bytes) -> None:
        """Keep what a client reveals."""
        self._await(Step.REVEAL, number, number in self.revealed, number in self.present)
        revealed = read(Revealed, self._from(number, message))
        self.check_revealed(number, revealed)
        self.revealed[number] = revealed

    def total(self) -> Elements:
        """The sum of the vectors of those `present`, modulo the prime.

        Raises:
            SecureAggregationError: where too few have revealed enough, or what they did does not fit.
        """
        self._close(Step.REVEAL, Step.DONE, len(self.revealed))
        return np.asarray(np.mod(self._sum - self.masks(), PRIME))

    @abstractmethod
    def reveal_lists(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of which present and which lost clients this one is to reveal something."""

    @abstractmethod
    def check_revealed(self, number: int, revealed: Revealed) -> None:
        """Refuse an answer to a reveal request that does not fit it."""

    @abstractmethod
    def masks(self) -> Elements:
        """The sum of the masks in the sum, from all that was revealed."""

    def _around(self, number: int, among: dict[int, PeerKeys] | dict[int, SealedShares]) -> tuple[int, ...]:
        return tuple(one for one in neighbours_of(number, self.terms, self.session) if one in among)

    def _reveal(self, number: int) -> RevealRequest:
        present, lost = self.reveal_lists(number)
        senders = tuple(sorted({*present, *lost} - {number}))
        shares = (self.sealed[one] for one in senders)
        mine = tuple(one.shares[one.receivers.index(number)] for one in shares)
        return RevealRequest(present, lost, senders, mine)

    def _without_shares(self, shares: SealedShares) -> SealedShares:
        return SealedShares(shares.commitment, (), ())

    def _await(self, step: Step, number: int, answered: bool, awaited: bool) -> None:
        if self.step != step or answered or not awaited:
            was = "answered before" if answered else f"is not awaited in step {self.step.name}"
            raise SecureAggregationError(f"a message of client {number} for step {step.name} {was}; refused")

    def _close(self, step: Step, following: Step, left: int) -> None:
        if self.step != step:
            raise SecureAggregationError(f"step {step.name} cannot be closed in step {self.step.name}")
        if left < self.terms.fewest:
            raise SecureAggregationError(
                f"{left} of {self.terms.clients} clients are left after step {step.name}, expected at least "
                f"{self.terms.fewest}: the sum would show too much; the round is refused"
            )
        self.step = following

    def _to(self, number: int, body: object) -> bytes:
        label = self._label(self.step, SERVER, number)
        return sealed(self._channels[number], label, written(body))

    def _from(self, number: int, message: bytes) -> bytes:
        return opened(self._channels[number], self._label(self.step, number), message)

    def _label(self, step: Step, sender: int, receiver: int = SERVER) -> Label:
        return Label(self.terms.protocol, step, self.session, self.server_round, sender, receiver)
